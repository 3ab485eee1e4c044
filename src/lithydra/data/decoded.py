"""The pixels of image files, kept on disk: they are decoded once, and read from then on.

A file `SPLIT-KEY.npy` holds one split's images in the order of its files. The key is of the names, sizes and times of
all of them, so that a change of any makes another; the one before is removed. Behind the array lies its CRC-32.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lithydra.data.images import ImageFiles, decode_all
from lithydra.files import beside

log = logging.getLogger(__name__)

VERSION = 1  # of what `decode` makes of a file
PART = 2**26  # bytes that a checksum is taken of at a time


class DecodedFiles(ImageFiles):
    """Images that are too many for memory, read from where they are kept."""

    def __init__(self, files: ImageFiles, place: Path) -> None:
        super().__init__(files.paths, files.labels, files.channels, files.image_size)
        self.place, self._pixels = place, None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._pixels is None:
            self._pixels = np.load(self.place, mmap_mode="r")
        image = torch.from_numpy(np.array(self._pixels[index]))
        return image[None] if self.channels == 1 else image.permute(2, 0, 1), int(self.labels[index])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pixels": None}  # another process opens the file itself


def pixels(folder: Path, split: str, files: ImageFiles) -> np.ndarray:
    """All images, uint8 (N, H, W) or (N, H, W, 3), in memory; read from `folder`, or decoded and left there.

    Raises:
        ImageError: As `decode_all`.
    """
    place = _place(folder, split, files)
    if place.exists():
        if (found := _read(place)) is not None:
            return found
        log.warning("%s: damaged, so the images are decoded again", place)
    decoded = decode_all(files.paths, channels=files.channels, image_size=files.image_size)
    try:
        with _kept_as(place) as aside, aside.open("wb") as file:
            np.save(file, decoded)
            file.write(_checksum(decoded))
    except OSError as error:
        _tell(place, error)
    return decoded


def on_disk(folder: Path, split: str, files: ImageFiles) -> ImageFiles:
    """The images from `folder`, decoded into it if they are not there; where it cannot be written, as they were.

    Raises:
        ImageError: As `decode_all`.
    """
    place = _place(folder, split, files)
    if place.exists():
        return DecodedFiles(files, place)
    try:
        with _kept_as(place) as aside:

            def allocate(shape: tuple[int, ...]) -> np.ndarray:
                array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
                _reserve(aside)
                return array

            how = {"channels": files.channels, "image_size": files.image_size}
            checksum = _checksum(decode_all(files.paths, **how, allocate=allocate))
            with aside.open("ab") as file:
                file.write(checksum)
    except OSError as error:
        _tell(place, error)
        return files
    return DecodedFiles(files, place)


@contextmanager
def _kept_as(place: Path) -> Iterator[Path]:
    """A file to write, which takes the place of the split's earlier ones."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with beside(place) as aside:
        yield aside
    for other in place.parent.glob(f"{place.name.partition('-')[0]}-*.npy"):
        if other != place:
            other.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Take the room on disk now: a full one would end the process when a page of the map is written."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _tell(place: Path, error: OSError) -> None:
    log.warning("%s: decoded images are not kept: %s", place, error.strerror or error)


def _place(folder: Path, split: str, files: ImageFiles) -> Path:
    digest = hashlib.sha256(f"{VERSION} {files.channels} {files.image_size}\n".encode())
    for path in files.paths:
        stat = path.stat()
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return folder / f"{split}-{digest.hexdigest()[:16]}.npy"


def _read(path: Path) -> np.ndarray | None:
    """The array in memory; None where it is damaged."""
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
            return array if file.read() == _checksum(array) else None
    except (OSError, ValueError, EOFError):
        return None


def _checksum(array: np.ndarray) -> bytes:
    flat, crc = array.reshape(-1), 0
    for start in range(0, len(flat), PART):
        crc = zlib.crc32(flat[start : start + PART].data, crc)
    return crc.to_bytes(4, "big")
