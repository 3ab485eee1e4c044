"""The sides of a study's comparison: which runs each has, and by which test they differ (docs/studies.md)."""

import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any

import numpy as np
import pandas as pd

from lithydra.overrides import FOLDED, short, typed
from lithydra.report import significance
from lithydra.sweeps.results import Frame

ONE_SEED = "one seed decides nothing"
Key = tuple[str, ...]  # of a setting, its values; of a repeat, seed and fold


class Side:
    """One side of a comparison: the finished runs that a selector takes.

    `planned` are its settings, `settings` those with a result, and `never` counts the runs that never reached what they
    are timed to. `repeats` has the mean over the settings for each seed and fold in which all of them have the metric,
    so that no setting weighs more in one repeat than in another.
    """

    def __init__(
        self,
        frame: Frame,
        selector: Mapping[str, Any],
        metric: str,
        settings: list[str],
        without: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = described(selector) if selector or not without else "all others"
        taken = frame[matches(frame, selector)]
        if without and dict(without) != dict(selector):
            taken = taken[~matches(taken, without)]
        self.planned = set(_keys(taken, settings))
        if metric != "diverged":
            taken = taken[taken["state"] == "finished"]
        self.never = int(np.isinf(taken[metric].astype(float)).sum()) if metric in taken.columns else 0
        taken = taken[np.isfinite(taken[metric].astype(float))] if metric in taken.columns else taken[:0]
        values = taken[metric].astype(float).tolist() if metric in taken.columns else []
        self.has_folds = "data.fold" in taken.columns
        settings_of, repeats_of = _keys(taken, settings), _keys(taken, [a for a in FOLDED if a in taken.columns])
        self.runs: dict[Key, dict[Key, float]] = {}  # repeat -> setting -> value
        for setting, repeat, value in zip(settings_of, repeats_of, values, strict=True):
            self.runs.setdefault(repeat, {})[setting] = value
        self.keep(set(settings_of))

    def keep(self, settings: set[Key]) -> None:
        """Leave out the runs of other settings."""
        self.settings = settings
        kept = {r: {s: value for s, value in v.items() if s in settings} for r, v in self.runs.items()}
        self.runs = {repeat: values for repeat, values in kept.items() if values}
        width = len(settings)
        self.repeats = {r: math.fsum(v.values()) / width for r, v in self.runs.items() if len(v) == width}
        self.limit_to(self.repeats if len(self.repeats) > 1 else self.runs)

    def limit_to(self, repeats: Iterable[Key]) -> None:
        """The mean and the number of runs that are shown, of these repeats alone."""
        values = [value for repeat in repeats for value in self.runs[repeat].values()]
        self.count, self.mean = len(values), math.fsum(values) / len(values) if values else math.nan

    def array(self, repeats: Iterable[Key]) -> np.ndarray:
        return np.array([self.repeats[repeat] for repeat in repeats])

    @property
    def lacks_repeats(self) -> str:
        """Why this side has no spread over seeds; empty where it has."""
        if len(self.repeats) > 1:
            return ""
        return ONE_SEED if len(self.runs) < 2 else f"all settings of {self.name} finished with fewer than two seeds"

    def counted(self, repeats: Sized) -> str:
        return f"{len(repeats)} {'seeds and folds' if self.has_folds else 'seeds'}"

    def overlap(self, repeats: Iterable[Key]) -> float:
        """Test over training images of `significance.paired`, where folds repeat a setting."""
        folds = len({repeat[-1] for repeat in repeats}) if self.has_folds else 1
        return 1 / (folds - 1) if folds > 1 else 0.0


def keep_shared(mine: Side, theirs: Side, axes: list[str], selected: Iterable[str]) -> list[str]:
    """Of sides that cross, leave out the settings that only one has a result of; returns these in words.

    Else one that diverges would drop out of one side's mean and stay in that of the other. Sides cross where each has
    one setting for each combination of the axes by which neither is selected, and these are the same.
    """
    free = [place for place, axis in enumerate(axes) if axis not in selected]

    def rest(setting: Key) -> Key:
        return tuple(setting[place] for place in free)

    planned, others = (sorted(map(rest, side.planned)) for side in (mine, theirs))
    if planned != others or len(set(planned)) < len(planned):
        return []
    shared = set(map(rest, mine.settings)) & set(map(rest, theirs.settings))
    for side in (mine, theirs):
        side.keep({setting for setting in side.settings if rest(setting) in shared})
    lost = [point for point in planned if point not in shared]
    values = [zip((axes[place] for place in free), point, strict=True) for point in lost]
    return [" ".join(f"{axis}={short(typed(value))}" for axis, value in pairs) for pairs in values]


def one_sample(side: Side, reference: float, margin: float) -> tuple[float, float | None, str]:
    """Difference, p value and name of the test that a side differs from a number by more than `margin`."""
    difference = side.mean - reference
    if side.lacks_repeats:
        return difference, None, side.lacks_repeats
    differences = _rounded(side.array(side.repeats) - reference - margin, side.mean, reference)
    p = significance.paired(differences, side.overlap(side.repeats))
    return difference, float(p), side.counted(side.repeats)


def two_samples(mine: Side, theirs: Side, margin: float) -> tuple[float, float | None, str]:
    """The same of two sides: of the seeds that both have, or of all where they share fewer than two."""
    shared = [repeat for repeat in mine.repeats if repeat in theirs.repeats]
    if len(shared) > 1:
        for side in (mine, theirs):
            side.limit_to(shared)
        differences = _rounded(mine.array(shared) - theirs.array(shared) - margin, mine.mean, theirs.mean)
        p = significance.paired(differences, mine.overlap(shared))
        return mine.mean - theirs.mean, float(p), f"paired by {mine.counted(shared)}"
    difference = mine.mean - theirs.mean
    if lacking := mine.lacks_repeats or theirs.lacks_repeats:
        return difference, None, lacking
    overlap = max(side.overlap(side.repeats) for side in (mine, theirs))
    p = significance.unpaired(mine.array(mine.repeats) - margin, theirs.array(theirs.repeats), overlap)
    return difference, float(p), f"{mine.counted(mine.repeats)} against {len(theirs.repeats)} others"


def _rounded(differences: np.ndarray, *sizes: float) -> np.ndarray:
    """What is 0 but for rounding becomes 0."""
    return np.where(np.abs(differences) <= 1e-12 * max(map(abs, sizes)), 0.0, differences)


def _keys(frame: Frame, axes: list[str]) -> list[Key]:
    return list(zip(*(map(str, frame[axis]) for axis in axes), strict=True)) if axes else [()] * len(frame)


def matches(frame: Frame, selector: Mapping[str, Any]) -> Frame:
    matches = pd.Series(True, index=frame.index)
    for axis, value in selector.items():
        matches &= frame[axis].isin([typed(value)]) if axis in frame else False
    return matches.astype(bool)


def described(selector: Any) -> str:
    if not isinstance(selector, Mapping):
        return str(selector)
    return ", ".join(f"{axis}={value}" for axis, value in selector.items()) or "all runs"
