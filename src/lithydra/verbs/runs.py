"""All runs at a glance: a table to filter and sort, a page, tags and notes, and what is no longer wanted."""

import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lithydra.errors import ConfigError, nearest
from lithydra.overrides import short
from lithydra.report.all_runs import chosen, frame
from lithydra.run import index
from lithydra.run.directory import RunDir
from lithydra.run.listing import STATES, TRASH, find_runs, label, listed, move_to_trash
from lithydra.run.metric_names import better
from lithydra.run.rendering import duration
from lithydra.sweeps.directory import SweepDir
from lithydra.sweeps.results import Frame, number
from lithydra.sweeps.view import STYLES

MADE = ("best", "age")  # columns that are made of others: the monitored metric, and the time since the start
USUAL = (
    "run",
    "state",
    "data",
    "model",
    "settings",
    "best_epoch",
    "best",
    "test/acc",
    "seconds",
    "age",
    "tags",
    "note",
)
WIDE = 110  # characters of a terminal; a narrower one has no room for seconds, and for a run's time beside its name
WIDER = 150
NARROW = {"run", "state", "settings", "best", "test/acc", "age"}
SHOWN_ROWS = 40  # of a table, with limit=auto
LEADING = re.compile(r"^[\w.]*\.(?=\w+=)")  # of trainer.max_epochs=3, all before its last part
DIGITS = re.compile(r"(?<==)\d+\.\d{5,}(?:e[+-]?\d+)?$")  # of a draw: more than a table has room for
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_)(?=.)")
STYLES = {**STYLES, "killed": "red", "damaged": "red"}


def runs(config: DictConfig) -> dict[str, Any]:
    """List the runs that `where` and the names choose, or tag, note or delete them; returns the rows as `runs`.

    Raises:
        ConfigError: No such column, an expression that cannot be read, or nobody to ask before deleting.
    """
    folder = Path(config.paths.outputs)
    found = [RunDir.open(Path(path), "runs") for path in config.runs] if config.runs else [*find_runs(folder)]
    columns = _words(config.columns)
    rows = [listed(run, folder) for run in found]
    table = frame(rows).assign(path=[str(run.path) for run in found])
    table = chosen(table, found, config.where, config.sort, [name for name in columns if name not in MADE])
    table = table.assign(**{name: _made(name, table) for name in columns if name in MADE})
    if config.delete:
        return {"deleted": _delete(config, folder, _doomed(config.delete, table))}
    marked = bool(config.tag or config.untag or config.note is not None)
    if marked:
        table = _labeled(config, folder, table)
    if config.format == "html":
        as_read = not (marked or config.runs)
        page = index.write(folder, rows if as_read else [listed(run, folder) for run in find_runs(folder)])
        Console(highlight=False, soft_wrap=True).print(f"page  {page}")
    table = table.drop(columns="path")
    if config.format in ("table", "csv"):
        _show(table, config, columns)
    told = table[: None if config.limit == "auto" else config.limit]
    return {"runs": (told[columns] if columns else told).to_dict("records")}


def _made(name: str, table: Frame) -> list[Any]:
    """The monitored metric of each run; or the seconds since it began."""
    rows = table.to_dict("records")
    if name == "best":
        return [row.get(row["metric"]) for row in rows]
    return [(datetime.now(timezone.utc) - row["started"]).total_seconds() for row in rows]


def _labeled(config: DictConfig, folder: Path, table: Frame) -> Frame:
    """Put the tags and the note on each run of the table."""
    picked = [RunDir(Path(path)) for path in table["path"]]
    for run in picked:
        label(run, add=_words(config.tag), remove=_words(config.untag), note=config.note)
    index.update(folder, picked)
    again = [listed(run, folder) for run in picked]
    return table.assign(tags=[row.tags for row in again], note=[row.note for row in again])


def _doomed(what: str | bool, table: Frame) -> list[Path]:
    """What `delete` means: a run or sweep by its directory, the runs of a state, or with true all that were chosen."""
    if isinstance(what, str) and os.path.isdir(what):
        sweep = SweepDir(Path(what))
        return [sweep.path if sweep.file.exists() else RunDir.open(Path(what), "delete").path]
    if isinstance(what, str) and what not in STATES:
        raise ConfigError(
            f"delete={what}: no run's directory, and no state, {', '.join(STATES)}.{nearest(what, STATES)}"
        )
    paths = table["path"] if what is True else table["path"][table["state"] == what]
    return [Path(path) for path in paths]


def _delete(config: DictConfig, folder: Path, doomed: Sequence[Path]) -> list[dict[str, Any]]:
    """Move directories to the trash, after a yes. Returns where each was and is."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    for path in doomed:
        console.print(f"  {path}")
    if not doomed or (config.ask and not _agreed(len(doomed))):
        console.print("Nothing was deleted" if doomed else "No run to delete")
        return []
    moved = [{"run": str(path), "now": str(move_to_trash(path, folder))} for path in doomed]
    index.update(folder, [RunDir(path) for path in doomed])
    console.print(f"moved to       {folder / TRASH}; take them back from there, or remove it")
    return moved


def _agreed(count: int) -> bool:
    what = f"{count} runs" if count > 1 else "it"
    if not sys.stdin.isatty():
        raise ConfigError(f"delete: asks before it moves {what} to the trash, and nobody can answer; ask=false deletes")
    return input(f"Move {what} to the trash? [y/N] ").strip().lower() in ("y", "yes")


def _show(table: Frame, config: DictConfig, columns: Sequence[str]) -> None:
    as_table = config.format == "table"
    limit = config.limit if config.limit != "auto" else SHOWN_ROWS if as_table else None
    shown = table[:limit]
    if not as_table:
        print((shown[[*columns]] if columns else shown).to_csv(index=False), end="")
        return
    console = Console(highlight=False)
    console.print(_drawn(shown, columns or _usual(shown, console.width), console.width))
    if len(shown) < len(table):
        console.print(f"and {len(table) - len(shown)} more; limit=null shows all")
    names = table["sweep"].dropna().unique()
    if not columns and len(names):
        console.print(_drawn_sweeps(table[table["sweep"].isin(names[:limit])]))
        if len(names[:limit]) < len(names):
            console.print(f"and {len(names) - len(names[:limit])} more sweeps; limit=null shows all")


def _usual(table: Frame, width: int) -> list[str]:
    """The columns for a terminal of so many characters: of those that say something about these runs."""
    room = (
        NARROW if width < WIDE else {*USUAL} if width >= WIDER else {*USUAL} - {"data", "model", "best_epoch", "note"}
    )
    empty = {name for name in ("tags", "note") if not table[name].map(len).any()}
    return [name for name in USUAL if name in room - empty and (name in MADE or name in table)]


def _drawn_sweeps(table: Frame) -> Table:
    """A row a sweep: how its jobs ended, the best of them, and its time in all."""
    drawn = Table(title="Sweeps", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("sweep", "jobs", "best", "seconds", "age"):
        drawn.add_column(name, justify="left" if name in ("sweep", "jobs") else "right", overflow="fold")
    for name, jobs in table.groupby("sweep", sort=False):
        states = jobs["state"].value_counts()
        drawn.add_row(
            escape(str(name).removeprefix("sweeps/")),
            ", ".join(f"{count} {state}" for state, count in states.items()),
            _best_of(jobs[jobs["state"] == "finished"]),
            duration(float(jobs["seconds"].sum())),
            _cell("age", {"started": jobs["started"].max()}, in_name=True),
        )
    return drawn


def _best_of(jobs: Frame) -> str:
    """The best value of the metric that all of them monitor."""
    metric = _monitored(jobs)
    if metric == "best" or metric not in jobs or jobs[metric].isna().all():
        return ""
    mode = better(metric)
    return f"{metric} {number(getattr(jobs[metric], mode)())}" if mode else ""


def _drawn(table: Frame, columns: Sequence[str], width: int) -> Table:
    """The rows for a terminal of so many characters."""
    names = {"best": _monitored(table)}
    drawn = Table(title=f"{len(table)} run{'' if len(table) == 1 else 's'}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        figure = "/" in name or name in ("best", "seconds", "age")
        drawn.add_column(
            names.get(name, name),
            justify="right" if figure else "left",
            overflow="fold",
            no_wrap=figure,
            min_width=20 if name == "run" else None,
        )
    for row in table.to_dict("records"):
        cells = [_cell(name, row, in_name=names["best"] != "best") for name in columns]
        drawn.add_row(*(STAMP.sub(r"\1\n", cell) if width < WIDE else cell for cell in cells))
    return drawn


def _monitored(table: Frame) -> str:
    """The metric that all runs monitor, as the name of their column."""
    found = set(table["metric"].dropna())
    return found.pop() if len(found) == 1 else "best"


def _cell(name: str, row: dict[str, Any], *, in_name: bool) -> str:
    """What a terminal shows of a row in a column; `in_name` says that the column has the metric's name."""
    if name == "best":
        value = row.get(row["metric"])
        return (
            "" if value is None or value != value else number(value) if in_name else f"{row['metric']} {number(value)}"
        )
    if name == "age":
        return "" if row["started"] != row["started"] else _age(row["started"])
    value = row[name]
    if value is None or str(value) in ("<NA>", "NaT", "nan"):
        return ""
    if name == "run":
        return escape(str(value).removeprefix("runs/").removeprefix("sweeps/"))
    if name == "state":
        style = STYLES.get(value)
        return f"[{style}]{value}[/{style}]" if style else escape(str(value))
    if name == "settings":
        values = (LEADING.sub("", text) for text in value.split(" "))
        return escape(" ".join(DIGITS.sub(lambda match: short(float(match[0])), text) for text in values))
    if name == "seconds":
        return duration(value)
    if isinstance(value, float):
        return number(value) if "/" in name else short(value)
    return escape(",".join(map(str, value)) if isinstance(value, list) else str(value))


def _age(started: datetime) -> str:
    seconds = (datetime.now(timezone.utc) - started).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return "now"


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").strip("[]").split(",") if word.strip()]
