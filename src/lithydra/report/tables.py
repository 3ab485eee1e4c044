"""The report's tables, the same for the page, for report.md and for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from lithydra.overrides import short
from lithydra.run.metric_names import ordered
from lithydra.run.rendering import MISSING, duration
from lithydra.sweeps.results import ASKED, FIGURES, Frame, Setting, Spread, metric_columns, number


@dataclass
class Cell:
    """`sort` orders rows by value, empty where there is none; `share` is the length of a bar, in percent."""

    text: str
    sort: object = ""
    numeric: bool = False
    extra: str = ""
    hint: str = ""
    link: str = ""
    share: float | None = None
    state: bool = False


@dataclass
class Column:
    title: str
    numeric: bool = False


@dataclass
class Row:
    cells: list[Cell]
    best: bool = False


@dataclass
class Table:
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)


def settings_table(settings: Sequence[Setting], axes: Sequence[str], objective: str, brief: bool = False) -> Table:
    """A row a setting, best first: values, how many runs finished, metrics as mean ± std, training time of a run.

    `brief` leaves of the metrics the objective, the test accuracy and what was asked for, for a terminal.
    """
    found = ordered(name for s in settings for name in s.metrics if name not in FIGURES)
    asked = (name for name in found if name.startswith(ASKED))
    names = (objective, "test/acc", *asked) if brief else (objective, *found)
    present = [name for name in dict.fromkeys(names) if any(name in s.metrics for s in settings)]
    present = [name for name in present if name == objective or "train/" not in name]
    interval = not brief and any(
        s.metrics[objective].half_width is not None for s in settings if objective in s.metrics
    )
    columns = [Column("#", True), *_axis_columns([s.values for s in settings], axes)]
    repeats = any(len(s.jobs) > 1 for s in settings)
    columns.append(Column("finished" if repeats else "state"))
    columns += [Column(objective, True)] + ([Column("95 % interval", True)] if interval else [])
    columns += [Column(name, True) for name in present if name != objective] + [Column("time", True)]
    shares = _shares([s.metrics[objective].mean if objective in s.metrics else None for s in settings])
    table = Table(columns)
    for place, (setting, share) in enumerate(zip(settings, shares, strict=True), start=1):
        spread = setting.metrics.get(objective)
        cells = [
            Cell(str(place), place, True),
            *(_value(setting.values[axis]) for axis in axes),
            _finished(setting, repeats),
        ]
        cells.append(_metric(spread, share))
        if interval:
            cells.append(_interval(spread))
        cells += [_metric(setting.metrics.get(name)) for name in present if name != objective]
        seconds = setting.metrics.get("seconds")
        cells.append(Cell(duration(seconds.mean) if seconds else MISSING, seconds.mean if seconds else "", True))
        table.rows.append(Row(cells, best=place == 1 and spread is not None))
    return table


def jobs_table(frame: Frame, axes: Sequence[str], objective: str, mode: str) -> Table:
    """A row a job, best first: values, state, metrics, best epoch, training time. The first cell leads to the run."""
    found = dict.fromkeys((objective, *metric_columns(frame)))
    present = [name for name in found if name in frame and (name == objective or "train/" not in name)]
    columns = [Column("run"), *_axis_columns(frame[list(axes)].to_dict("records"), axes), Column("state")]
    columns += [Column(name, True) for name in present] + [Column("best epoch", True), Column("time", True)]
    table = Table(columns)
    if objective in frame:
        frame = frame.assign(unfinished=frame["state"] != "finished")
        frame = frame.sort_values(["unfinished", objective], ascending=[True, mode == "min"], kind="stable")
    shares = _shares(frame[objective].tolist() if objective in frame else [])
    for position, job in enumerate(frame.to_dict("records")):
        folder = Path(str(job["run"])).name
        name = str(job["name"]) if not axes else str(position + 1)
        cells = [Cell(name, position + 1, bool(axes), hint=folder, link=f"{quote(folder)}/")]
        cells += [_value(job[axis]) for axis in axes]
        cells.append(Cell(str(job["state"]), job["state"], state=True))
        for metric in present:
            share = shares[position] if metric == objective else None
            cells.append(_metric(Spread.of([float(job[metric])]), share))
        best_epoch = job["best_epoch"]
        known = not pd.isna(best_epoch)
        cells.append(Cell(f"{best_epoch} of {job['epochs']}" if known else MISSING, best_epoch if known else "", True))
        seconds = float(job["seconds"])
        cells.append(Cell(duration(seconds), "" if seconds != seconds else seconds, True))
        table.rows.append(Row(cells, best=position == 0 and job["state"] == "finished"))
    return table


def _axis_columns(rows: Sequence[Mapping[Any, Any]], axes: Sequence[str]) -> list[Column]:
    return [Column(axis, all(_value(row[axis]).numeric for row in rows)) for axis in axes]


def _value(value: Any) -> Cell:
    if value is None or value != value:
        return Cell(MISSING)
    return Cell(short(value), value, isinstance(value, (int, float)) and not isinstance(value, bool))


def _metric(spread: Spread | None, share: float | None = None) -> Cell:
    if spread is None:
        return Cell(MISSING, "", True)
    extra = f"± {number(spread.std, spread.mean)}" if spread.std is not None else ""
    hint = (
        f"{spread.count} runs, 95 % interval ± {number(spread.half_width, spread.mean)}"
        if spread.half_width is not None
        else ""
    )
    return Cell(number(spread.mean), spread.mean, True, extra, hint, share=share)


def _interval(spread: Spread | None) -> Cell:
    if spread is None or spread.half_width is None:
        return Cell(MISSING, "", True)
    return Cell(f"± {number(spread.half_width, spread.mean)}", spread.half_width, True)


def _finished(setting: Setting, repeats: bool) -> Cell:
    if not repeats:
        return Cell(next(iter(setting.states)), next(iter(setting.states)), state=True)
    done = setting.states.get("finished", 0)
    others = ", ".join(f"{count} {state}" for state, count in setting.states.items() if state != "finished")
    return Cell(f"{done} of {len(setting.jobs)}", done, extra=others)


def _shares(values: Sequence[float | None]) -> list[float | None]:
    """Each value's place between the lowest and the highest, in percent; the lowest keeps a stub."""
    known = [value for value in values if value is not None and value == value]
    if len(known) < 2 or max(known) == min(known):
        return [None] * len(values)
    low, high = min(known), max(known)
    return [None if v is None or v != v else round(8 + 92 * (v - low) / (high - low), 1) for v in values]
