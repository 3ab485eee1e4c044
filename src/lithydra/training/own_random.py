"""The random numbers that a person's own code draws: of all generators that it may use."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lithydra.training import position


@contextmanager
def untouched() -> Iterator[None]:
    """The generators of random numbers are as before afterwards."""
    state = random_state()
    yield
    set_random_state(state)


def random_state() -> dict[str, Any]:
    """Of all generators that a person's code may draw from, as plain values."""
    kind, keys, place, has_gauss, cached = np.random.get_state()
    numpy_state = [kind, [int(key) for key in keys], int(place), int(has_gauss), float(cached)]
    version, internal, gauss = random.getstate()
    return {**position.random_state(), "numpy": numpy_state, "python": [version, list(internal), gauss]}


def set_random_state(state: dict[str, Any]) -> None:
    position.set_random_state(state)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
