"""A person's own images as files, one folder a class."""

import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lithydra.data import decoded
from lithydra.data.base import ImageDataModule
from lithydra.data.images import ImageFiles, decode_all, file_size, find_images
from lithydra.data.prepare import ONLY_VALIDATION, Arrays, validate
from lithydra.data.shared import once
from lithydra.errors import ConfigError

log = logging.getLogger(__name__)


# The names of the folders of splits, in any case.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# For a checksum of each split's files: 160 MiB at most, whatever their number and size.
SAMPLED_FILES = 10_000
SAMPLED_BYTES = 8192  # at each end of a file


class ImageFolder(ImageDataModule):
    """`train/CLASS/*`, `val/CLASS/*` and `test/CLASS/*` of a folder.

    Without val/, validation is a part of train/; without test/, val/ is the test split. Of `CLASS/*` alone,
    `test_fraction` becomes the test split: stratified, and the same for every seed. Up to `memory_limit_gib` (GiB of
    decoded pixels), the images are held in memory. Up to `cache_limit_gib`, their pixels are kept below `dir`, so that
    the files are decoded once; beyond that, whenever an image is needed.
    """

    def __init__(
        self,
        *,
        path: str,
        image_size: int,
        channels: int,
        test_fraction: float,
        memory_limit_gib: float,
        dir: str = "",
        cache_limit_gib: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(image_size=image_size, **common)
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise ConfigError(f"data.path={path}: no such folder")
        self.side, self.channels = image_size, channels
        self.test_fraction, self.memory_limit_gib = test_fraction, memory_limit_gib
        self.dir, self.cache_limit_gib = Path(dir), cache_limit_gib

    def files(self) -> dict[str, ImageFiles] | None:
        if self._gib <= self.memory_limit_gib:
            return None
        if self._gib > self.cache_limit_gib:
            return self._splits
        return {split: decoded.on_disk(self._cache, split, part, self.path) for split, part in self._splits.items()}

    @property
    def _gib(self) -> float:
        """Of all decoded pixels."""
        return sum(map(len, self._splits.values())) * self.side**2 * self.channels / 2**30

    @property
    def _cache(self) -> Path:
        """Of this folder at this size."""
        place = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:8]
        return self.dir / "decoded" / f"{self.path.resolve().name}-{place}-{self.side}x{self.side}x{self.channels}"

    def read(self) -> Arrays:
        key = ("images", self.path.resolve(), *self.fingerprint().items(), self.side, self.channels)
        return once(key, self._decoded)

    def _decoded(self) -> Arrays:
        arrays: dict[str, np.ndarray] = {}
        for split, part in self._splits.items():
            kept = self._gib <= self.cache_limit_gib
            if kept:
                arrays[f"x_{split}"] = decoded.pixels(self._cache, split, part, self.path)
            else:
                arrays[f"x_{split}"] = decode_all(part.paths, channels=self.channels, image_size=self.side)
            arrays[f"y_{split}"] = part.labels.numpy()
        whole = Arrays(**arrays)
        validate(whole, f"data.path={self.path}")
        return whole

    def class_names(self) -> tuple[str, ...]:
        return tuple(self._paths["train"])

    def fingerprint(self) -> dict[str, str]:
        """CRC-32 of each split's names and sizes, and of a sample of its bytes: to read all again would take long."""
        return self._checksums

    @cached_property
    def _checksums(self) -> dict[str, str]:
        sums: dict[str, int] = {}
        for split, part in self._splits.items():
            names = "".join(f"{path.relative_to(self.path)} {file_size(path)}\n" for path in part.paths)
            sums[split] = zlib.crc32(names.encode())
            sums[f"{split}_contents"] = _sampled(part.paths)
        return {key: f"{value:08x}" for key, value in sums.items()}

    @cached_property
    def _splits(self) -> dict[str, ImageFiles]:
        return {split: self._image_files(paths) for split, paths in self._paths.items()}

    @cached_property
    def _paths(self) -> dict[str, dict[str, list[Path]]]:
        """The files of each class, of each split."""
        folders = _split_folders(self.path)
        if not folders:
            return _divided(_find_classes(self.path), self.test_fraction)
        if "test" not in folders:
            if "val" not in folders:
                raise ConfigError(f"data.path={self.path}: has {folders['train'].name}/ but no test/ or val/")
            folders["test"] = folders.pop("val")
            names = {"val": f"{folders['test'].name}/", "test": "test/", "train": f"{folders['train'].name}/"}
            log.info("%s: %s", self.path, ONLY_VALIDATION.format(**names))
        found = {split: _find_classes(folder) for split, folder in folders.items()}
        for split in found:
            if differing := sorted(found["train"].keys() ^ found[split].keys()):
                both = f"{folders['train'].name}/ and {folders[split].name}/"
                raise ConfigError(f"data.path={self.path}: only one of {both} has {', '.join(differing)}")
        return found

    def _image_files(self, paths_by_class: Mapping[str, list[Path]]) -> ImageFiles:
        paths = [path for paths in paths_by_class.values() for path in paths]
        counts = torch.tensor([len(paths) for paths in paths_by_class.values()])
        return ImageFiles(paths, torch.arange(len(counts)).repeat_interleave(counts), self.channels, self.side)


def _sampled(paths: Sequence[Path]) -> int:
    """CRC-32 of the first and last bytes of files all along the list."""

    def ends(path: Path) -> bytes:
        with path.open("rb") as file:
            first = file.read(SAMPLED_BYTES)
            file.seek(max(SAMPLED_BYTES, path.stat().st_size - SAMPLED_BYTES))
            return first + file.read(SAMPLED_BYTES)

    checksum = 0
    with ThreadPoolExecutor() as pool:
        for content in pool.map(ends, paths[:: -(-len(paths) // SAMPLED_FILES)]):
            checksum = zlib.crc32(content, checksum)
    return checksum


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits, the training split's among them; empty where the folders are those of classes."""
    entries = _subfolders(folder)
    named = [(split, entry) for entry in entries for split, names in SPLITS.items() if entry.name.lower() in names]
    divided = [split for split, entry in named if _subfolders(entry)]  # else it may be a class: trains, tests
    shown = " and ".join(f"{entry.name}/" for _, entry in named)
    if not divided:
        if named and len(named) == len(entries):
            raise ConfigError(f"data.path={folder}: has {shown}, without a folder for each class in them")
        return {}
    if "train" not in divided:
        raise ConfigError(f"data.path={folder}: has {shown} but no train/ with a folder for each class")
    splits = dict(named)
    if len(splits) < len(named):
        raise ConfigError(f"data.path={folder}: has {shown}, two for the same split")
    if unread := sorted({entry.name for entry in entries} - {entry.name for entry in splits.values()}):
        log.info("%s: %s is not read, as there is %s", folder, ", ".join(unread), shown)
    return splits


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


def _divided(paths_by_class: Mapping[str, list[Path]], fraction: float) -> dict[str, dict[str, list[Path]]]:
    """All but `fraction` of each class for training, and that fraction for testing."""
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
    return {"train": train, "test": test}
