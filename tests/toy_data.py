"""A data set of three classes whose images tell which they are, in memory and as files."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays

COUNTS = np.array([100, 60, 40])  # training images of each class; a tenth of that for testing


class Toy(ImageDataModule):
    """Images of 4x6: the first pixel holds their number, in two bytes, and their class; test images count from 500."""

    def read(self) -> Arrays:
        labels = [np.random.default_rng(0).permutation(np.repeat([0, 1, 2], n)) for n in (COUNTS, COUNTS // 10)]
        images = [np.random.default_rng(1).integers(0, 256, (len(y), 4, 6, 3), dtype=np.uint8) for y in labels]
        for first, x, y in zip((0, 500), images, labels, strict=True):
            number = first + np.arange(len(y))
            x[:, 0, 0] = np.stack([number // 256, number % 256, y], axis=1)
        return Arrays(images[0], labels[0], images[1], labels[1])

    def class_names(self) -> tuple[str, ...]:
        return ("a", "b", "c")


class ToyFiles(Toy):
    """The same images, one at a time."""

    def files(self) -> Any:
        arrays = self.read()
        return {name: Files(*split) for name, split in arrays.splits().items()}


class ToyWithVal(Toy):
    """With validation images of its own, which count from 1000."""

    def read(self) -> Arrays:
        arrays = super().read()
        images = arrays.x_test.copy()
        images[:, 0, 0, :2] = [[(1000 + i) // 256, (1000 + i) % 256] for i in range(len(images))]
        return arrays._replace(x_val=images, y_val=arrays.y_test)


class ToyFilesWithVal(ToyFiles, ToyWithVal):
    pass


class Files(Dataset[tuple[Tensor, int]]):
    channels, image_size = 3, 4

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])
