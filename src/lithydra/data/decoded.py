"""The pixels of image files, kept on disk: they are decoded once, and read from then on.

A file `SPLIT-KEY.npy` holds one split's images in the order of its files. The key is of the names below the data's
folder, sizes and times of all of them, so that a change of any makes another; the one before is removed. A copy of the
folder has files of its own here. Behind the array lies its CRC-32, which is looked at once in each run.
"""

import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

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

    def __init__(self, files: ImageFiles, place: Path, pixels: np.ndarray) -> None:
        super().__init__(files.paths, files.labels, files.channels, files.image_size)
        self.place = place
        self._pixels: np.ndarray | None = pixels  # forked workers have it too, even when the file is removed

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._pixels is None:
            try:
                found: np.ndarray = np.load(self.place, mmap_mode="r")
            except FileNotFoundError:  # a run on other files of the folder has put its own in this one's place
                return super().__getitem__(index)
            self._pixels = found
        image = torch.from_numpy(np.array(self._pixels[index]))
        return image[None] if self.channels == 1 else image.permute(2, 0, 1), int(self.labels[index])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pixels": None}  # another process opens the file itself


def pixels(folder: Path, split: str, files: ImageFiles, root: Path) -> np.ndarray:
    """All images, uint8 (N, H, W) or (N, H, W, 3), in memory; read from `folder`, or decoded and left there.

    Args:
        root: What the files lie below.

    Raises:
        ImageError: As `decode_all`.
    """
    place = _place(folder, split, files, root)
    if (found := _read(place)) is not None:
        return found
    decoded = decode_all(files.paths, channels=files.channels, image_size=files.image_size)
    try:
        with _kept_as(place) as aside, aside.open("wb") as file:
            np.save(file, decoded)
            file.write(_checksum(decoded))
    except OSError as error:
        _tell(place, error)
    return decoded


def on_disk(folder: Path, split: str, files: ImageFiles, root: Path) -> ImageFiles:
    """The images from `folder`, decoded into it if they are not there; where it cannot be written, as they were.

    Args:
        root: What the files lie below.

    Raises:
        ImageError: As `decode_all`.
    """
    place = _place(folder, split, files, root)
    if (found := _read(place, mmap_mode="r")) is not None:
        return DecodedFiles(files, place, found)
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
        return DecodedFiles(files, place, np.load(place, mmap_mode="r"))
    except OSError as error:
        _tell(place, error)
        return files


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


def _place(folder: Path, split: str, files: ImageFiles, root: Path) -> Path:
    digest = hashlib.sha256(f"{VERSION} {files.channels} {files.image_size}\n".encode())
    for path in files.paths:
        stat = path.stat()
        digest.update(f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return folder / f"{split}-{digest.hexdigest()[:16]}.npy"


def _read(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | None:
    """The array, in memory or mapped; None where there is none, or it is damaged."""
    try:
        array = np.load(path, mmap_mode, allow_pickle=False)
        checksum = _checksum(array)
        with path.open("rb") as file:
            file.seek(-len(checksum), os.SEEK_END)
            if file.read() == checksum:
                return array
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, EOFError):
        pass
    log.warning("%s: damaged, so the images are decoded again", path)


def _checksum(array: np.ndarray) -> bytes:
    flat, crc = array.reshape(-1), 0
    for start in range(0, len(flat), PART):
        crc = zlib.crc32(flat[start : start + PART].data, crc)
    return crc.to_bytes(4, "big")
