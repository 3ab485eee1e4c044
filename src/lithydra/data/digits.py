"""scikit-learn's handwritten digits: the data set that needs no download."""

from pathlib import Path
from typing import Any

import numpy as np

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, Source, fingerprint, prepared


class Digits(ImageDataModule):
    """1,797 grey images of 8x8 pixels, 10 classes.

    The set has no official test split: a fixed stratified fifth, the same for every seed, takes its place.
    """

    def __init__(self, *, dir: str, **common: Any) -> None:
        super().__init__(**common)
        self.file = Path(dir) / "digits.npz"

    def read(self) -> Arrays:
        source = Source("scikit-learn's load_digits", _from_sklearn, by_hand=False)
        return prepared(self.file, num_classes=10, sources=[source])

    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.file)


def _from_sklearn() -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # the set's values are 0 to 16
    x_train, x_test, y_train, y_test = train_test_split(
        pixels, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0
    )
    return Arrays(*map(np.asarray, (x_train, y_train, x_test, y_test)))
