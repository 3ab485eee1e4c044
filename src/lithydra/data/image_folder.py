"""A person's own images as files, one folder a class."""

import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lithydra.data.base import ImageDataModule
from lithydra.data.images import decode, decode_all, find_images
from lithydra.data.prepare import Arrays, validate
from lithydra.errors import ConfigError


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images that are decoded when they are asked for: ((C, H, W) uint8, label).

    Attributes:
        labels: (N,) int64.
        image_size: side in pixels.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, channels: int, image_size: int) -> None:
        self.paths, self.labels, self.channels, self.image_size = paths, labels, channels, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(decode(self.paths[index], channels=self.channels, image_size=self.image_size))
        return image[None] if self.channels == 1 else image.permute(2, 0, 1), int(self.labels[index])


class ImageFolder(ImageDataModule):
    """`train/CLASS/*` and `test/CLASS/*` of a folder; or `CLASS/*`, of which `test_fraction` becomes the test split.

    That division is stratified and the same for every seed. Up to `memory_limit_gib` (GiB of decoded pixels), the
    images are held in memory.
    """

    def __init__(
        self,
        *,
        path: str | None,
        image_size: int | None,
        channels: int,
        test_fraction: float,
        memory_limit_gib: float,
        **common: Any,
    ) -> None:
        super().__init__(image_size=image_size, **common)
        if path is None:
            raise ConfigError("data.path=null: data=image_folder needs data.path=FOLDER with a folder for each class")
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise ConfigError(f"data.path={path}: no such folder")
        if image_size is None:
            raise ConfigError("data.image_size=null: data=image_folder needs a side in pixels")
        if channels not in (1, 3):
            raise ConfigError(f"data.channels={channels}: 1 or 3")
        if not 0 < test_fraction < 1:
            raise ConfigError(f"data.test_fraction={test_fraction}: above 0 and below 1")
        self.side, self.channels = image_size, channels
        self.test_fraction, self.memory_limit_gib = test_fraction, memory_limit_gib

    def files(self) -> tuple[ImageFiles, ImageFiles] | None:
        num_bytes = sum(len(part) for part in self._splits) * self.side**2 * self.channels
        return self._splits if num_bytes > self.memory_limit_gib * 2**30 else None

    def read(self) -> Arrays:
        images = [decode_all(part.paths, channels=self.channels, image_size=self.side) for part in self._splits]
        labels = [part.labels.numpy() for part in self._splits]
        arrays = Arrays(images[0], labels[0], images[1], labels[1])
        validate(arrays, f"data.path={self.path}")
        return arrays

    def class_names(self) -> tuple[str, ...]:
        return tuple(self._paths_by_class[0])

    def fingerprint(self) -> dict[str, str]:
        """CRC-32 of the names and sizes of the files: to read them all again would take too long."""
        train, test = (
            "".join(f"{path.relative_to(self.path)} {path.stat().st_size}\n" for path in part.paths)
            for part in self._splits
        )
        return {"train": f"{zlib.crc32(train.encode()):08x}", "test": f"{zlib.crc32(test.encode()):08x}"}

    @cached_property
    def _splits(self) -> tuple[ImageFiles, ImageFiles]:
        train, test = self._paths_by_class
        return self._image_files(train), self._image_files(test)

    @cached_property
    def _paths_by_class(self) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
        """Of the training and of the test split."""
        if not _subfolders(self.path / "train"):
            return _divided(_find_classes(self.path), self.test_fraction)
        if not (self.path / "test").is_dir():
            raise ConfigError(f"data.path={self.path}: has train/ but no test/")
        train, test = _find_classes(self.path / "train"), _find_classes(self.path / "test")
        if differing := sorted(train.keys() ^ test.keys()):
            raise ConfigError(f"data.path={self.path}: only one of train/ and test/ has {', '.join(differing)}")
        return train, test

    def _image_files(self, paths_by_class: Mapping[str, list[Path]]) -> ImageFiles:
        paths = [path for paths in paths_by_class.values() for path in paths]
        counts = torch.tensor([len(paths) for paths in paths_by_class.values()])
        return ImageFiles(paths, torch.arange(len(counts)).repeat_interleave(counts), self.channels, self.side)


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _find_classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, by the name of its folder, in alphabetical order."""
    folders = _subfolders(folder)
    if len(folders) < 2:
        raise ConfigError(f"data.path: {len(folders)} class folders in {folder}; two are the least")
    try:
        return {entry.name: find_images(entry) for entry in folders}
    except ConfigError as error:
        raise ConfigError(f"data.path: {error}") from error


def _divided(
    paths_by_class: Mapping[str, list[Path]], fraction: float
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """All but `fraction` of each class, and that fraction."""
    generator = np.random.default_rng(0)
    train: dict[str, list[Path]] = {}
    test: dict[str, list[Path]] = {}
    for name, paths in paths_by_class.items():
        if len(paths) < 2:
            raise ConfigError(f"data.path: class {name} has one image; two are the least, or use train/ and test/")
        num_test = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
        order = generator.permutation(len(paths))
        test[name] = [paths[i] for i in sorted(order[:num_test])]
        train[name] = [paths[i] for i in sorted(order[num_test:])]
    return train, test
