"""Prepared data: one uncompressed NAME.npz a data set, made once and checked whenever it is read.

Its keys are Keras's, so a file that Keras or a person wrote is used as it is.
"""

import functools
import logging
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout

from lithydra.data.arrays import Arrays, validate
from lithydra.data.memory import require_memory
from lithydra.data.shared import once
from lithydra.errors import ConfigError
from lithydra.files import remove_unfinished, replacing

log = logging.getLogger(__name__)

# With only two splits, the second is what results are reported on (ImageNet's, for one), so it decides nothing.
ONLY_VALIDATION = "there is no {test}, so {val} is the test split; validation is a part of {train}"


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
        published: the data are files of others, and stay what they are when the code that reads them is edited. Else
            they are made anew when the module of `read` has changed.
    """

    what: str
    read: Callable[[], Arrays]
    by_hand: bool = True
    published: bool = False


def prepared(path: Path, *, num_classes: int, sources: Sequence[Source]) -> Arrays:
    """The arrays in `path`; where it does not exist, it is made from the first of `sources` that has the data.

    Any number of processes may call this at once: one makes the file, the others wait for it. In a folder that cannot
    be written, each process reads the source for itself. A file that a source of other code has made is made anew.

    Raises:
        ConfigError: the file is damaged or holds something else, or no source has the data.
    """
    if _up_to_date(path, sources):
        return load(path, num_classes=num_classes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        _warn_unwritten(path, _reason(error))
        return _made(path, num_classes, sources, writable=False)
    with lock:
        if _up_to_date(path, sources):
            return load(path, num_classes=num_classes)
        return _made(path, num_classes, sources, writable=True)


def _made(path: Path, num_classes: int, sources: Sequence[Source], *, writable: bool) -> Arrays:
    """The arrays of the first source that has them, written to `path` where the lock is held."""
    outdated = path.is_file()
    if outdated:
        log.info("%s was made by code that has changed since: making it anew", path)
    try:
        arrays, code = _first(sources, num_classes)
    except ConfigError as error:
        if outdated:
            log.warning("%s cannot be made anew, so the old file is used. Tried: %s", path, error)
            return load(path, num_classes=num_classes)
        places = [f"{path} with {_KEYS}", *(source.what for source in sources if source.by_hand)]
        raise ConfigError(
            f"{path} is not there and cannot be made. Tried: {error}. Add {', or '.join(places)}; "
            "data=digits needs none"
        ) from error
    if writable:
        try:
            _write(arrays, path, code)
        except OSError as error:
            _warn_unwritten(path, _reason(error))
    return arrays


def _up_to_date(path: Path, sources: Sequence[Source]) -> bool:
    """Whether there is a file, and its data are not what another state of a source's code has made."""
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            made_by = archive.comment.decode()
    except Exception:  # `load` says what is wrong
        return True
    return not made_by or made_by in map(_code, sources)


# What is written to a file's comment, by module: of the code that was imported, whatever is on disk by now.
_code_of_modules: dict[str, str] = {}


def note_code(module: str) -> str:
    """A checksum of a module's file, to be taken when it is imported; empty where there is none."""
    try:
        content = Path(sys.modules[module].__file__ or "").read_bytes()
    except (OSError, KeyError, AttributeError):
        return ""
    _code_of_modules[module] = f"code {zlib.crc32(content):08x}"
    return _code_of_modules[module]


def _code(source: Source) -> str:
    if source.published:
        return ""
    read = source.read
    while isinstance(read, functools.partial):
        read = read.func
    module = getattr(read, "__module__", "")
    return _code_of_modules.get(module) or note_code(module)


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
            refuse_zip_bomb(archive, Arrays._fields, str(path))
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


def refuse_zip_bomb(archive: zipfile.ZipFile, keys: Collection[str], what: str) -> None:
    """Look at what the arrays would take before any is unpacked. What is read is bounded by what is said here.

    Args:
        keys: Of the arrays that are to be read.
        what: Opens the message.

    Raises:
        ConfigError: They need more memory than is free, or pack smaller than pictures do.
    """
    members = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in keys]
    require_memory(sum(info.file_size for info in members), what)
    for info in members:
        if info.file_size > LARGE_BYTES and info.file_size > MOST_PACKED * info.compress_size:
            sizes = f"{info.file_size:,} bytes packed into {info.compress_size:,}"
            raise ConfigError(f"{what}: {info.filename.removesuffix('.npy')} is {sizes}, and no pictures pack so small")


def fingerprint(path: Path) -> dict[str, str]:
    """CRC-32 of each array as hex, out of the zip's directory: no array is read. Empty where there is no such file."""
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {info.filename.removesuffix(".npy"): f"{info.CRC:08x}" for info in archive.infolist()}


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


def _first(sources: Sequence[Source], num_classes: int) -> tuple[Arrays, str]:
    """The arrays of the first source that has the data set, and the state of its code."""
    tried: list[str] = []
    for source in sources:
        try:
            arrays = source.read()
            validate(arrays, source.what, num_classes)
        except (OSError, RuntimeError, ValueError, ImportError, ConfigError) as error:
            tried.append(f"{source.what} ({_reason(error)})")
        else:
            return arrays, _code(source)
    raise ConfigError("; ".join(tried))


def _lock(path: Path) -> AcquireReturnProxy:
    lock = FileLock(path.with_suffix(".npz.lock"))
    try:
        return lock.acquire(timeout=2)
    except Timeout:
        log.info("%s is being made by another process: waiting for it", path)
        return lock.acquire()


def _write(arrays: Arrays, path: Path, code: str) -> None:
    """Needs the lock: nobody else is writing."""
    remove_unfinished(path.parent, path.name)
    with replacing(path) as file:
        compact = {key: _compact(a) if key.startswith("y") else a for key, a in arrays.by_key().items()}
        np.savez(file, **compact)  # pyright: ignore[reportArgumentType]
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = code.encode()


def _compact(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.min_scalar_type(labels.max()))


@functools.cache  # once a process
def _warn_unwritten(path: Path, reason: str) -> None:
    log.warning("%s cannot be written (%s): the data are read from their source at every start", path, reason)


def _reason(error: BaseException) -> str:
    """An exception's message in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
