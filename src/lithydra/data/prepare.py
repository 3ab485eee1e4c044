"""Prepared data: one uncompressed NAME.npz a data set, made once and checked whenever it is read.

Its keys are Keras's, so a file that Keras or a person wrote is used as it is.
"""

import contextlib
import functools
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout

from lithydra.errors import ConfigError
from lithydra.memory import require_memory
from lithydra.shared import once

log = logging.getLogger(__name__)

# With only two splits, the second is what results are reported on (ImageNet's, for one), so it decides nothing.
ONLY_VALIDATION = "there is no {test}, so {val} is the test split; validation is a part of {train}"


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
        """Images and labels of each split that there is."""
        splits = {"train": (self.x_train, self.y_train), "test": (self.x_test, self.y_test)}
        if self.x_val is not None and self.y_val is not None:
            splits["val"] = (self.x_val, self.y_val)
        return splits


_KEYS = "x_train y_train x_test y_test"

# Pictures of a few strokes on black pack into a thirtieth, nothing but zeros into a thousandth.
MOST_PACKED = 300
LARGE_BYTES = 2**26  # less is unpacked in no time, and looked at


@dataclass(frozen=True)
class Source:
    """One way to get a data set.

    Attributes:
        what: its name in messages, e.g. "torchvision's raw files in data/MNIST/raw".
        read: gives the arrays; raises OSError, RuntimeError or ValueError, with the reason, where it has none.
        by_hand: a person can put these files there.
    """

    what: str
    read: Callable[[], Arrays]
    by_hand: bool = True


def prepared(path: Path, *, num_classes: int, sources: Sequence[Source]) -> Arrays:
    """The arrays in `path`; where it does not exist, it is made from the first of `sources` that has the data.

    Any number of processes may call this at once: one makes the file, the others wait for it. In a folder that cannot
    be written, each process reads the source for itself.

    Raises:
        ConfigError: the file is damaged or holds something else, or no source has the data.
    """
    if path.is_file():
        return load(path, num_classes=num_classes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        _warn_unwritten(path, _reason(error))
        return _first(sources, path, num_classes)
    with lock:
        if path.is_file():
            return load(path, num_classes=num_classes)
        arrays = _first(sources, path, num_classes)
        try:
            _write(arrays, path)
        except OSError as error:
            _warn_unwritten(path, _reason(error))
        return arrays


def load(path: Path, *, num_classes: int | None = None, mend: str = "delete it and it is made anew") -> Arrays:
    """Read and check an npz file. `mend` says in the error what to do about a damaged one.

    Raises:
        ConfigError: the file is damaged, or its arrays are not those of an image data set.
    """
    try:
        key = ("npz", path.absolute(), *fingerprint(path).items(), num_classes)
    except Exception:  # as in `_load`, which says what is wrong
        return _load(path, num_classes, mend)
    return once(key, lambda: _load(path, num_classes, mend))


def _load(path: Path, num_classes: int | None, mend: str) -> Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
            _refuse_bomb(archive, path)
            arrays = {key: _array(archive, key) for key in Arrays._fields if key in keys}
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ConfigError:
        raise
    except Exception as error:  # what a flipped bit makes zipfile and numpy raise can be nearly anything
        raise ConfigError(f"{path} is damaged ({_reason(error)}): {mend}") from error
    if "x_test" not in arrays and "x_val" in arrays:
        log.info("%s: %s", path, ONLY_VALIDATION.format(val="x_val", test="x_test", train="x_train"))
        arrays = {key.replace("val", "test"): array for key, array in arrays.items()}
    needed = [*_KEYS.split(), *(("x_val", "y_val") if arrays.keys() & {"x_val", "y_val"} else ())]
    if missing := [key for key in needed if key not in arrays]:
        raise ConfigError(f"{path}: {' '.join(missing)} not there; it has {' '.join(keys)}, {_KEYS} are needed")
    found = Arrays(**{key: _flat(array) if key.startswith("y") else array for key, array in arrays.items()})
    validate(found, str(path), num_classes)
    return found


def _refuse_bomb(archive: zipfile.ZipFile, path: Path) -> None:
    """Look at what the arrays would take before any is unpacked. What is read is bounded by what is said here."""
    members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in Arrays._fields]
    require_memory(sum(info.file_size for info in members), str(path))
    for info in members:
        if info.file_size > LARGE_BYTES and info.file_size > MOST_PACKED * info.compress_size:
            sizes = f"{info.file_size:,} bytes packed into {info.compress_size:,}"
            raise ConfigError(f"{path}: {info.filename.removesuffix('.npy')} is {sizes}, and no pictures pack so small")


def fingerprint(path: Path) -> dict[str, str]:
    """CRC-32 of each array as hex, out of the zip's directory: no array is read. Empty where there is no such file."""
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): f"{info.CRC:08x}" for info in archive.infolist()}


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


def _array(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """Like numpy.load, which misses damage that makes an array look shorter: the CRC is checked at a member's end."""
    with archive.open(f"{key}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f"{key} is longer than its header says")
    return array


def _flat(labels: np.ndarray) -> np.ndarray:
    """Whole-numbered labels as int64 (N,), also from Keras's (N, 1); others as they are, for `validate` to refuse."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.astype(np.int64) if labels.dtype.kind in "iu" else labels


def _first(sources: Sequence[Source], path: Path, num_classes: int) -> Arrays:
    """The arrays of the first source that has the data set."""
    tried: list[str] = []
    for source in sources:
        try:
            arrays = source.read()
            validate(arrays, source.what, num_classes)
        except (OSError, RuntimeError, ValueError, ImportError, ConfigError) as error:
            tried.append(f"{source.what} ({_reason(error)})")
        else:
            return arrays
    places = [f"{path} with {_KEYS}", *(source.what for source in sources if source.by_hand)]
    raise ConfigError(
        f"{path} is not there and cannot be made. Tried: {'; '.join(tried)}. "
        f"Add {', or '.join(places)}; data=digits needs none"
    )


def _lock(path: Path) -> AcquireReturnProxy:
    lock = FileLock(path.with_suffix(".npz.lock"))
    try:
        return lock.acquire(timeout=2)
    except Timeout:
        log.info("%s is being made by another process: waiting for it", path)
        return lock.acquire()


def _write(arrays: Arrays, path: Path) -> None:
    """Write beside `path` and move into place, so that the name never stands for half a file. Needs the lock."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that died here: we hold the lock
        stale.unlink()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            compact = {key: _compact(a) if key.startswith("y") else a for key, a in arrays.by_key().items()}
            np.savez(file, **compact)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every system syncs folders; without it, the file may have to be made again
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _compact(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.min_scalar_type(labels.max()))


@functools.cache  # once a process
def _warn_unwritten(path: Path, reason: str) -> None:
    log.warning("%s cannot be written (%s): the data are read from their source at every start", path, reason)


def _reason(error: BaseException) -> str:
    """An exception's message in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
