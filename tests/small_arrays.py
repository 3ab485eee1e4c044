"""A data set of a few tiny images, and what prepares it."""

from typing import Any

import numpy as np

from lithydra.data.prepare import Arrays, Source


def make_arrays(num_train: int = 12, num_test: int = 6) -> Arrays:
    """Three classes of 4x4 images."""
    pixels = np.random.default_rng(0).integers(0, 256, (num_train + num_test, 4, 4), dtype=np.uint8)
    labels = np.arange(num_train + num_test) % 3
    return Arrays(pixels[:num_train], labels[:num_train], pixels[num_train:], labels[num_train:])


def with_val(arrays: Arrays) -> Arrays:
    return arrays._replace(x_val=255 - arrays.x_test, y_val=arrays.y_test)


def make_source(read: Any = make_arrays) -> Source:
    return Source("a source", read)


def equal(first: Arrays, second: Arrays) -> bool:
    one, other = first.by_key(), second.by_key()
    return one.keys() == other.keys() and all(
        np.array_equal(array, other[key]) and array.dtype == other[key].dtype for key, array in one.items()
    )
