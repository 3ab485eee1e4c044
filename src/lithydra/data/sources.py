"""Where the data sets come from: files in MNIST's IDX format, torchvision's files, torchvision's downloads."""

import contextlib
import gzip
import io
import logging
import shutil
import socket
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path

import numpy as np

from lithydra.data.prepare import Arrays, Source

log = logging.getLogger(__name__)


def idx_files(folder: Path, what: str) -> Source:
    """The four files of MNIST's family, plain or gzipped, under the names that torchvision and Debian give them."""
    return Source(f"{what} in {folder}", partial(_read_idx_files, folder), published=True)


def torchvision_files(name: str, root: Path, folder: str) -> Source:
    """What torchvision's data set `name` has unpacked to `root/folder`."""
    return Source(
        f"torchvision's raw files in {root / folder}",
        partial(_read_torchvision_files, name, root, folder),
        published=True,
    )


def download(name: str, root: Path) -> Source:
    """A download of torchvision's data set `name`. The raw files are removed once they are read."""
    return Source("a download by torchvision", partial(_download, name, root), by_hand=False, published=True)


def _read_idx_files(folder: Path) -> Arrays:
    if not folder.is_dir():
        raise FileNotFoundError("no such folder")
    names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    x_train, y_train, x_test, y_test = (_read_idx(folder, name) for name in names)
    return Arrays(x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64))


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, 8 (for uint8), number of dimensions, each as big-endian int32, values."""
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        data = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no {name} or {packed.name}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{packed.name} is damaged: {error}") from error
    if data[:3] != b"\0\0\x08":
        raise ValueError(f"{name} is no IDX file of bytes")
    num_dims = data[3]
    shape = np.frombuffer(data, ">i4", count=num_dims, offset=4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims)
    if values.size != np.prod(shape):
        raise ValueError(f"{name} is damaged: {values.size} values instead of {np.prod(shape)}")
    return values.reshape(shape).copy()  # a copy can be written to, as torch wants its arrays


def _read_torchvision_files(name: str, root: Path, folder: str) -> Arrays:
    if not (root / folder).is_dir():
        raise FileNotFoundError("no such folder")
    return _torchvision(name, root, download=False)


def _torchvision(name: str, root: Path, download: bool) -> Arrays:
    from torchvision import datasets

    train, test = (getattr(datasets, name)(root, train=official, download=download) for official in (True, False))
    return Arrays(
        x_train=np.ascontiguousarray(train.data),
        y_train=np.asarray(train.targets, dtype=np.int64),
        x_test=np.ascontiguousarray(test.data),
        y_test=np.asarray(test.targets, dtype=np.int64),
    )


def _download(name: str, root: Path) -> Arrays:
    from torchvision import datasets

    kind = getattr(datasets, name)
    with _stalls_end():
        _require_answer(getattr(kind, "mirrors", None) or [kind.url])
        log.info("downloading %s to %s", name, root)
        # Aside, because torchvision takes a half-written file of a killed process for a whole one.
        aside = root / f".{name}.download"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with _progress_only_in_terminal():
                return _torchvision(name, aside, download=True)
        except HTTPException as error:
            raise ConnectionError(f"the download broke off: {error}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _require_answer(urls: list[str], timeout_seconds: float = 5) -> None:
    """Raise ConnectionError unless one of the servers answers, be it with a refusal: torchvision waits for long."""
    reasons = []
    for url in urls:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=timeout_seconds).close()
            return
        except urllib.error.HTTPError as error:
            return error.close()
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            silent = isinstance(reason, TimeoutError)
            reasons.append(f"{url}: no answer in {timeout_seconds} s" if silent else f"{url}: {reason}")
    raise ConnectionError(", ".join(reasons))


@contextlib.contextmanager
def _stalls_end(timeout_seconds: float = 30) -> Iterator[None]:
    """Bound the wait for a server's next byte; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _progress_only_in_terminal() -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
