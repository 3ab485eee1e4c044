"""All runs below a folder as a table of pandas: chosen by an expression, sorted by a column."""

import keyword
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from lithydra.errors import ConfigError, nearest
from lithydra.run.config import flatten
from lithydra.run.directory import RunDir
from lithydra.run.listing import Listed, find_runs, listed
from lithydra.run.metric_names import ordered
from lithydra.sweeps.results import Frame

# What an expression is made of: a text, a name in backticks, a name, which may have dots and slashes.
TOKEN = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`[^`]*`|[A-Za-z_]\w*(?:[./][A-Za-z_]\w*)*""")
FIRST = ("run", "state", "data", "model", "settings", "metric", "best_epoch", "epoch")
LAST = ("seconds", "started", "sweep", "tags", "note", "error")


def runs(
    folder: str | Path | None = None, where: str | None = None, sort: str = "-started", settings: Iterable[str] = ()
) -> pd.DataFrame:
    """One row a run, of all below `folder`: state, choices, metrics of the best epoch, seconds, tags.

    Args:
        folder: None is LITHYDRA_OUTPUTS, or outputs/.
        where: An expression of pandas over the columns and over any setting of the runs, as
            "val/acc > 0.9 and optimizer.lr < 0.1".
        sort: A column or setting; with - before it the largest first.
        settings: Dotted keys of the config, each a column more.

    Raises:
        ConfigError: No such folder, or no such column or setting.
    """
    path = Path(folder or os.environ.get("LITHYDRA_OUTPUTS") or "outputs")
    if not path.is_dir():
        raise ConfigError(f"paths.outputs={path}: no such folder; runs are kept there")
    found = [*find_runs(path)]
    return chosen(frame([listed(run, path) for run in found]), found, where, sort, settings)


def frame(rows: Iterable[Listed]) -> Frame:
    """One row a run, unsorted; the columns of `Listed` but for those of the page, and one for each metric."""
    plain = [row.plain() for row in rows]
    metrics = ordered(name for row in plain for name in row["metrics"])
    cells = [{**row, **row["metrics"], "settings": " ".join(row["settings"])} for row in plain]
    table: Frame = pd.DataFrame(cells, columns=[*FIRST, *metrics, *LAST])
    for name in (*metrics, "seconds"):
        table[name] = table[name].astype(float)
    for name in ("best_epoch", "epoch"):
        table[name] = table[name].astype("Int64")
    table["started"] = pd.to_datetime(table["started"], utc=True, errors="coerce", format="ISO8601")
    return table


def chosen(
    table: Frame, found: list[RunDir], where: str | None, sort: str | None, settings: Iterable[str] = ()
) -> Frame:
    """The rows of `frame` for which an expression holds, sorted; `found` has the runs in the table's order."""
    names = [token for token in TOKEN.findall(where or "") if _is_name(token)]
    key = (sort or "").lstrip("-")
    settings = list(settings)
    unknown = [name for name in (*settings, key) if name and name not in table]
    unknown += [name for name in names if not _is_of_column(name, table)]
    if unknown:
        table = _with_settings(table, found, unknown)
    for name in (*settings, key):
        if name and name not in table:
            raise ConfigError(f"{name}: no run has such a column or setting.{nearest(name, table.columns)}")
    if where:
        table = _where(table, where)
    if key:
        table = _sorted(table, key, ascending=not (sort or "").startswith("-"))
    return table.reset_index(drop=True)


def _sorted(table: Frame, key: str, *, ascending: bool) -> Frame:
    given = {"ascending": ascending, "kind": "stable", "na_position": "last"}
    try:
        return table.sort_values(key, **given)
    except TypeError:  # numbers beside texts or lists, as 4 and auto
        return table.sort_values(key, **given, key=lambda column: column.map(_numbers_first, na_action="ignore"))


def _numbers_first(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, (int, float))
    return not is_number, value if is_number else 0, str(value)


def _where(table: Frame, where: str) -> Frame:
    """The rows for which `where` holds. pandas takes a name that has a slash in backticks."""

    def quoted(token: re.Match[str]) -> str:
        column = _column(token[0], table) if _is_name(token[0]) else None
        return token[0] if column is None else f"`{column}`{token[0][len(column) :]}"

    try:
        return table.query(TOKEN.sub(quoted, where), engine="python")
    except Exception as error:  # of pandas, numpy or Python, by what the expression is
        unknown = re.search(r"name '(?:BACKTICK_QUOTED_STRING_)?([^']+)' is not defined", str(error))
        hint = nearest(unknown[1], table.columns) if unknown else ""
        reason = " ".join(str(error).split())
        raise ConfigError(f"where={where}: {reason}.{hint or _columns_of(table)}") from error


def _columns_of(table: Frame) -> str:
    return f" The columns are {', '.join(table.columns)}, and any setting as optimizer.lr"


def _is_name(token: str) -> bool:
    return token[0] not in "'\"`" and not keyword.iskeyword(token)


def _is_of_column(name: str, table: Frame) -> bool:
    """Whether it is a column, or a method of one as in `note.str.len`; `data.limit` is a setting."""
    column = _column(name, table)
    if column is None or column == name:
        return column is not None
    return callable(getattr(pd.Series, name[len(column) + 1 :].partition(".")[0], None))


def _column(name: str, table: Frame) -> str | None:
    """The column that a name begins with: of `note.str.len`, note."""
    return next((head for head in _heads(name) if head in table.columns), None)


def _heads(name: str) -> list[str]:
    """`a.b.c`, `a.b` and `a`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _with_settings(table: Frame, found: list[RunDir], names: Iterable[str]) -> Frame:
    """With a column for each of the dotted keys of the runs' configs that a name begins with."""
    configs: list[dict[str, Any]] = []
    for run in found:
        try:
            configs.append(dict(flatten(run.read_config())))
        except ConfigError:
            configs.append({})
    known = {key for config in configs for key in config}
    for name in names:
        if key := next((head for head in _heads(name) if head in known), None):
            table[key] = [config.get(key) for config in configs]
    return table
