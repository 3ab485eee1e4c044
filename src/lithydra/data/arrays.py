"""The images and labels of a data set, and what makes them one."""

from typing import NamedTuple

import numpy as np

from lithydra.errors import ConfigError


class Arrays(NamedTuple):
    """The official splits of a data set. The field names are the keys of the npz file.

    Images are uint8 (N, H, W) or (N, H, W, C) with 1 or 3 channels; labels are int64 (N,), 0 to classes - 1.
    Without a validation split of its own, validation is a part of the training split.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_val: np.ndarray | None = None
    y_val: np.ndarray | None = None

    def by_key(self) -> dict[str, np.ndarray]:
        """As the npz file has them."""
        return {key: array for key, array in self._asdict().items() if array is not None}

    def splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images and labels of each existing split."""
        splits = {"train": (self.x_train, self.y_train), "test": (self.x_test, self.y_test)}
        if self.x_val is not None and self.y_val is not None:
            splits["val"] = (self.x_val, self.y_val)
        return splits


def validate(arrays: Arrays, where: str, num_classes: int | None = None) -> None:
    """Refuse arrays that cannot be an image classification data set; `where` opens the message.

    Raises:
        ConfigError: with the first thing that is wrong.
    """
    shape = arrays.x_train.shape[1:]
    for split, (images, labels) in arrays.splits().items():
        _validate_images(images, f"{where}: x_{split}")
        _validate_labels(labels, f"{where}: y_{split}")
        if len(images) != len(labels):
            raise ConfigError(f"{where}: y_{split} has {len(labels):,} labels for {len(images):,} images")
        if images.shape[1:] != shape:
            found = f"{shape} in x_train, {images.shape[1:]} in x_{split}"
            raise ConfigError(f"{where}: images of shape {found}; make them equal")
    _validate_classes(arrays, where, num_classes)


def _validate_images(images: np.ndarray, what: str) -> None:
    if images.dtype.kind == "f" and np.isnan(images).any():
        raise ConfigError(f"{what} has NaN among its pixels; uint8 from 0 to 255 is needed")
    if images.dtype != np.uint8:
        raise ConfigError(f"{what} has dtype {images.dtype}: scale it to 0..255 and convert it with .astype('uint8')")
    if images.ndim not in (3, 4):
        raise ConfigError(f"{what} has shape {images.shape}; (N, H, W) or (N, H, W, C) is needed")
    if images.size == 0:
        raise ConfigError(f"{what} is empty")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        advice = ""
        if images.shape[3] == 4:
            advice = ": convert RGBA to RGB"
        elif images.shape[1] in (1, 3):
            advice = ": move the channels last, (N, H, W, C)"
        raise ConfigError(f"{what} has {images.shape[3]} channels; 1 or 3 are allowed{advice}")
    if (value := images.min()) == images.max():
        raise ConfigError(f"{what} holds no picture: every pixel is {value}")


def _validate_labels(labels: np.ndarray, what: str) -> None:
    if labels.ndim != 1:
        raise ConfigError(f"{what} has shape {labels.shape}; (N,) is needed, one class number an image")
    if labels.dtype.kind not in "iu":
        raise ConfigError(f"{what} has dtype {labels.dtype}; whole numbers are needed, one class number an image")
    if labels.size and labels.min() < 0:
        raise ConfigError(f"{what} has the label {labels.min()}; labels start at 0")


def _validate_classes(arrays: Arrays, where: str, num_classes: int | None) -> None:
    classes = np.unique(arrays.y_train)
    if len(classes) < 2:
        raise ConfigError(f"{where}: all training images are of class {classes[0]}; two classes are the least")
    if classes[-1] != len(classes) - 1:
        gap = np.flatnonzero(classes != np.arange(len(classes)))[0]
        raise ConfigError(
            f"{where}: y_train goes to {classes[-1]} but has no image of class {gap}; number the classes without a gap"
        )
    for split, (_, labels) in arrays.splits().items():
        if len(unknown := np.setdiff1d(labels, classes)):
            raise ConfigError(f"{where}: y_{split} has the label {unknown[0]}; training labels are 0 to {classes[-1]}")
    if num_classes is not None and len(classes) != num_classes:
        raise ConfigError(f"{where} has {len(classes)} classes instead of {num_classes}: it is another data set")
