"""Files that are whole or absent however a process ends, tables that grow row by row, and links out of a directory."""

import csv
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lithydra.errors import ConfigError, LithydraError

log = logging.getLogger(__name__)

ASIDE = ".tmp"  # ends the names of files that are being written
# Each session of wandb links to a log in its own cache; it makes the link anew, and writes nothing through it.
OF_WANDB = "wandb/*/logs/debug-core.log"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name for a file that takes the place of `path` at once; where that fails, an old file stays as it was."""
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
    aside.unlink(missing_ok=True)
    try:
        yield aside
        os.replace(aside, path)
        _sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)  # replace() leaves it where both names are of one file already


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """`beside` with an open file, on disk before it takes the place of `path`. Errors are those of the system."""
    with beside(path) as aside, aside.open("w+b") as file:
        yield file
        sync(file)


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not every system syncs folders; without it, a crash may bring the old file back
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes were writing. Nobody may be writing there now."""
    for stale in folder.glob(f".{name}.*{ASIDE}"):
        stale.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the system's errors into a LithydraError that names the file."""
    try:
        yield
    except OSError as error:
        raise LithydraError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Raises LithydraError, and leaves an old file as it was, where that cannot be done."""
    with naming(path), replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text, whose line ends stay as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def set_aside(path: Path, why: str) -> Path:
    """Rename `path` to what nobody reads, in place of what was there."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    os.replace(path, aside)
    log.warning("%s: %s, set aside as %s", path, why, aside.name)
    return aside


def read_header(path: Path) -> tuple[str, ...]:
    """The columns of a CSV file; empty where there is none."""
    if not path.exists():
        return ()
    with path.open(newline="", errors="replace") as file:
        return tuple(next(csv.reader(_without_nul(file)), ()))


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    """The lines with U+FFFD for NUL, as for bytes that are no text: Python 3.10 reads no line with NUL."""
    return (line.replace("\0", "\ufffd") for line in lines)


def append_rows(path: Path, columns: Collection[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append to a CSV file, which is begun with its header. What a row lacks stays empty, what it has more is left out.

    Raises:
        LithydraError: It cannot be written, a full disk for instance; then a part of a row may be.
    """
    header = not path.exists()
    with naming(path), path.open("a", newline="") as file:
        _write_rows(file, columns, rows, header=header)


def write_rows(path: Path, columns: Collection[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file anew."""
    text = io.StringIO(newline="")
    _write_rows(text, columns, rows, header=True)
    write_text(path, text.getvalue())


def _write_rows(file: IO[str], columns: Collection[str], rows: Iterable[Mapping[str, Any]], *, header: bool) -> None:
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
    if header:
        writer.writeheader()
    writer.writerows(rows)


def read_rows(path: Path, columns: Collection[str], text: Collection[str] = ()) -> list[dict[str, str]]:
    """The whole rows of a CSV file that may be cut off or damaged; the others are left out with a warning.

    Args:
        columns: That a row must have.
        text: Those of them that do not hold numbers.

    Raises:
        ConfigError: `path` cannot be read at all.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", errors="replace") as file:
            reader = csv.DictReader(_without_nul(file))
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    whole = [row for row in rows if _is_whole(row, columns, text)]
    if len(whole) < len(rows) or not {*columns} <= {*header}:
        log.warning("%s: damaged (%d of %d rows left out)", path, len(rows) - len(whole), len(rows))
    return whole


def _is_whole(row: dict[str, str], columns: Collection[str], text: Collection[str]) -> bool:
    if not {*columns} <= row.keys() or None in row or None in row.values():
        return False
    if "epoch" in columns and not row["epoch"].isdecimal():
        return False
    try:
        for column, value in row.items():
            if value and column not in text:
                float(value)
    except ValueError:
        return False
    return True


def refuse_links_out(directory: Path) -> None:
    """Raise ConfigError where a link in a directory, which may be a stranger's, leads out of it.

    What is written to such a link is written to where it leads.
    """
    root = directory.resolve()
    for folder, folders, files in os.walk(directory):
        for path in (Path(folder, name) for name in (*folders, *files)):
            if not path.is_symlink() or path.relative_to(directory).match(OF_WANDB):
                continue
            if not path.resolve().is_relative_to(root):
                raise ConfigError(
                    f"{path}: a link to {os.readlink(path)}, out of {directory}; nothing is written there"
                )


def as_json(value: Any) -> Any:
    """A value as JSON has it: what is no number or not there as null, what JSON has no form for as text."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return None if str(value) in ("<NA>", "NaT") else str(value)
