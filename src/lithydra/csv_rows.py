"""Rows of CSV files that a run appends to, and that may have been cut off or damaged."""

import csv
import logging
from collections.abc import Collection
from pathlib import Path

from lithydra.errors import ConfigError

log = logging.getLogger(__name__)


def read_rows(path: Path, columns: Collection[str], text: Collection[str] = ()) -> list[dict[str, str]]:
    """The whole rows; others are left out, and that is said. Numbers stand in all columns but those of `text`.

    Raises:
        ConfigError: `path` cannot be read at all.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", errors="replace") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    whole = [row for row in rows if _is_whole(row, columns, text)]
    if len(whole) < len(rows) or not {*columns} <= {*header}:
        log.warning("%s: damaged (%d of %d rows left out)", path, len(rows) - len(whole), len(rows))
    return whole


def _is_whole(row: dict[str, str], columns: Collection[str], text: Collection[str]) -> bool:
    if not {*columns} <= row.keys() or None in row or None in row.values() or not row["epoch"].isdecimal():
        return False
    return all(_is_number(row[column]) for column in columns if column not in text)


def _is_number(value: str) -> bool:
    try:
        float(value or 0)
    except ValueError:
        return False
    return True
