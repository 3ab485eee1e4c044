"""A finished or unfinished sweep as tables: one row a job, and jobs that differ only by seed or fold as one setting.

Torch is not imported here.
"""

import csv
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from lithydra.errors import ConfigError
from lithydra.overrides import FOLDED, short, split_override, typed
from lithydra.run.directory import RunDir
from lithydra.run.listing import DAMAGED
from lithydra.run.metric_names import ordered
from lithydra.run.rendering import MISSING
from lithydra.sweeps.directory import NOT_STARTED, Job, Plan, SweepDir

log = logging.getLogger(__name__)

Read = TypeVar("Read")
# What reading a damaged file raises.
DAMAGES = (ConfigError, OSError, ValueError, KeyError, TypeError, EOFError, csv.Error, BadZipFile, zlib.error)
# A table of jobs or epochs. pandas' own types call any of its columns a Series, a DataFrame or an array.
Frame: TypeAlias = Any

BAD_STATES = ("failed", "diverged", DAMAGED)
FIGURES = ("seconds", "best_epoch")  # of a setting, beside its metrics
ASKED = "seconds to"  # begins the name of a column of times until a metric has a value


def results(sweep: str | Path) -> pd.DataFrame:
    """One row a job: its name, the axes as typed columns, state, metrics, best_epoch, seconds, error, run.

    `seconds` is the time spent in epochs, also over a resumed run's parts. The metrics are those of the best epoch.

    Raises:
        ConfigError: There is no sweep in that directory.
    """
    directory = SweepDir.open(Path(sweep))
    plan = directory.read()
    rows = [_row(directory, plan, job) for job in plan.jobs]
    metrics = ordered(name for row in rows for name in row["metrics"])
    columns = ["name", *plan.axes, "state", *metrics, "best_epoch", "epochs", "seconds", "error", "run"]
    frame = pd.DataFrame([{**row, **row["metrics"]} for row in rows], columns=columns)
    for name in (*metrics, "seconds"):
        frame[name] = frame[name].astype(float)
    for name in ("best_epoch", "epochs"):
        frame[name] = frame[name].astype("Int64")
    return frame


def metric_columns(frame: Frame) -> list[str]:
    """Those of `results` that hold a metric."""
    columns = list(frame.columns)
    return columns[columns.index("state") + 1 : columns.index("best_epoch")]


def _row(directory: SweepDir, plan: Plan, job: Job) -> dict[str, Any]:
    run = directory.run(job)
    status = directory.status(job)
    return {
        "name": job.name,
        **_axis_values(directory, plan, job),
        "state": status.get("state", NOT_STARTED),
        "metrics": status.get("metrics", {}),
        "best_epoch": status.get("best_epoch"),
        "epochs": status.get("epoch"),
        "seconds": training_seconds(run),
        "error": status.get("error"),
        "run": str(run.path),
    }


def _axis_values(directory: SweepDir, plan: Plan, job: Job) -> dict[str, Any]:
    """The job's value on each axis: as given, or for an axis that came later, what its config has there."""
    given = dict(split_override(override) for override in job.overrides)
    texts = {axis: given.get(axis, job.choices.get(axis)) for axis in plan.axes}
    if None in texts.values():
        config = DictConfig(readable(directory.config_file(job), lambda: directory.config(job), {}))
        for axis in [axis for axis, text in texts.items() if text is None]:
            texts[axis] = str(OmegaConf.select(config, axis, default=MISSING))
    return {axis: typed(text) for axis, text in texts.items()}


def readable(path: Path, read: Callable[[], Read], otherwise: Read) -> Read:
    """What `read` makes of a file; where that is damaged, it is said, and the rest does without."""
    try:
        return read()
    except DAMAGES as error:
        text = str(error)
        log.warning("%s", text if str(path) in text else f"{path}: damaged ({text}); left out")
        return otherwise


def epochs_of(run: RunDir) -> pd.DataFrame:
    """metrics.csv as numbers; empty where there is none, or none that can be read."""

    def read() -> Frame:
        rows = run.read_metrics()
        if not rows:
            return pd.DataFrame()
        epochs: Frame = pd.DataFrame(rows).reindex(columns=list(rows[0]))  # not what a long row has too much
        epochs = epochs.apply(pd.to_numeric, errors="coerce").dropna(subset=["epoch", "seconds"])
        return epochs[np.isfinite(epochs["epoch"])]

    return readable(run.metrics, read, pd.DataFrame())


def training_seconds(run: RunDir) -> float | None:
    """Spent in epochs, over all parts of a resumed run; None before the first has ended."""
    epochs: Frame = epochs_of(run)
    return None if epochs.empty else float(epochs["seconds"].sum())


def curves(frame: Frame, axes: Iterable[str]) -> pd.DataFrame:
    """metrics.csv of all jobs below each other, with the job's name, state and axes beside each epoch."""
    parts = []
    for job in frame.to_dict("records"):
        epochs = epochs_of(RunDir(Path(job["run"])))
        if epochs.empty:
            continue
        parts.append(epochs.assign(name=job["name"], state=job["state"], **{axis: job[axis] for axis in axes}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@dataclass(frozen=True)
class Spread:
    """Mean of a metric over the repeats of a setting; std and the 95 % interval's half width from two of them on."""

    mean: float
    std: float | None
    half_width: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float], overlap: float = 0.0) -> "Spread | None":
        """Of the values that are numbers; None where there are none, or one is infinite: what it counts never came.

        The interval is Student's t, with `overlap_of`.
        """
        numbers = [float(value) for value in values if not math.isnan(value)]
        if not numbers or any(map(math.isinf, numbers)):
            return None
        count = len(numbers)
        if count == 1:
            return cls(numbers[0], None, None, 1)
        from scipy.stats import t

        std = stdev(numbers)
        half_width = t.ppf(0.975, count - 1) * std * math.sqrt(1 / count + overlap)
        return cls(fmean(numbers), std, float(half_width), count)

    def __str__(self) -> str:
        return number(self.mean) if self.std is None else f"{number(self.mean)} ± {number(self.std, self.mean)}"


def overlap_of(runs: Frame) -> float:
    """Test over training images of the runs' folds, which share most of their training images; 0 without folds.

    By so much the variance of their mean is larger than that of as many independent values: Nadeau and Bengio, 2003,
    "Inference for the generalization error", section 3.
    """
    folds = runs["data.fold"].nunique() if "data.fold" in runs else 1
    return 1 / (folds - 1) if folds > 1 else 0.0


@dataclass
class Setting:
    """The jobs of one point of a sweep that differ only by seed or fold, `repeats` of which finished."""

    values: dict[str, Any]
    jobs: Frame
    metrics: dict[str, Spread] = field(default_factory=dict)
    repeats: int = 0

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={short(value)}" for key, value in self.values.items()) or "all runs"

    @property
    def states(self) -> dict[str, int]:
        return {str(state): int(count) for state, count in self.jobs["state"].value_counts().items()}


def varied(plan: Plan) -> list[str]:
    """The axes that change a setting."""
    return [axis for axis, values in plan.axes.items() if axis not in FOLDED and len(values) > 1]


def ranked_settings(frame: Frame, plan: Plan) -> list[Setting]:
    """Best first by the mean of the objective, which is never a test metric.

    A setting with repeats that failed, diverged or are missing comes after those without; missing are also those that
    it was never asked for, and another was.
    """
    axes = varied(plan)
    groups: list[Any] = list(frame.groupby(axes, sort=False, dropna=False)) if axes else [((), frame)]
    numeric = [*metric_columns(frame), *FIGURES]
    settings = []
    one_job = [*axes, *(axis for axis in FOLDED if axis in frame)]
    for key, jobs in groups:
        done = jobs[jobs["state"] == "finished"]
        done = done.drop_duplicates(one_job) if one_job else done
        overlap = overlap_of(done)
        spreads = {name: Spread.of(done[name].astype(float).tolist(), overlap) for name in numeric}
        found = {name: spread for name, spread in spreads.items() if spread is not None}
        settings.append(Setting(dict(zip(axes, key, strict=True)), jobs, found, len(done)))
    most = max((setting.repeats for setting in settings), default=0)
    metric, sign = plan.objective["metric"], -1 if plan.objective["mode"] == "max" else 1

    def rank(setting: Setting) -> tuple[bool, bool, float]:
        spread = setting.metrics.get(metric)
        complete = setting.repeats == most and setting.states.keys() == {"finished"}
        return spread is None, not complete, sign * spread.mean if spread else 0.0

    return sorted(settings, key=rank)


def number(value: float, beside: float | None = None) -> str:
    """Four decimals, or three digits where that says more; in the form of the number that it stands `beside`."""
    if value != value:
        return MISSING
    size = abs(value if beside is None else beside)
    return f"{value:.4f}" if size == 0 or 1e-3 <= size < 1000 else f"{value:.3g}"
