"""Whether a study shows what was expected: comparisons that the study file declares, and what came out of them.

docs/studies.md describes the form of a rule. Nothing in it is executed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lithydra.axis_values import FOLDED, typed
from lithydra.study_rules import BEST, LAST, is_number
from lithydra.sweep_results import Frame, Spread, number

SHOWS, DOES_NOT_SHOW, UNCLEAR = "shows", "does not show", "unclear"


@dataclass(frozen=True)
class Outcome:
    """What became of one rule: the claim in words, the verdict, and the figures that it rests on."""

    claim: str
    verdict: str
    figures: str


def overall(outcomes: list[Outcome]) -> str:
    """`shows` where every rule does, `does not show` where one does not, else `unclear`."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if DOES_NOT_SHOW in verdicts:
        return DOES_NOT_SHOW
    return SHOWS if verdicts == {SHOWS} else UNCLEAR


def judge(
    study: Mapping[str, Any], frame: Frame, epochs: Frame, axes: list[str], objective: Mapping[str, str]
) -> list[Outcome]:
    """Try each rule of a study.

    Args:
        frame: `lithydra.results` of the sweep.
        epochs: `sweep_results.curves` of it.
        axes: all keys that vary.
        objective: `metric` and `mode` that choose the best run.
    """
    frame = frame.assign(diverged=(frame["state"] == "diverged").astype(float))
    if {"train/acc", "val/acc"} <= set(frame.columns):
        frame["gap"] = frame["train/acc"] - frame["val/acc"]
    if {"val/acc", "test/acc"} <= set(frame.columns):
        frame["optimism"] = frame["val/acc"] - frame["test/acc"]
    frame[BEST] = frame.index == _best(frame, **objective)
    return [
        outcome
        for rule in study.get("verdict", [])
        for outcome in _try_rule(rule, _with_epoch(frame, epochs, rule), [axis for axis in axes if axis not in FOLDED])
    ]


def _best(frame: Frame, metric: str, mode: str) -> Any:
    """The row of the run that validation chooses; None where there is none."""
    scores = frame.loc[frame["state"] == "finished", metric].dropna() if metric in frame else pd.Series(dtype=float)
    if scores.empty:
        return None
    return scores.idxmax() if mode == "max" else scores.idxmin()


def _with_epoch(frame: Frame, epochs: Frame, rule: Mapping[str, Any]) -> Frame:
    """With `at_epoch`, the metric as it stood after that epoch instead of at the best one."""
    metric = rule["metric"]
    if "at_epoch" not in rule:
        return frame
    if {"train/acc", "val/acc"} <= set(epochs.columns):
        epochs = epochs.assign(gap=epochs["train/acc"] - epochs["val/acc"])
    if metric not in epochs.columns:
        return frame.assign(**{metric: math.nan})
    by_name = epochs.sort_values("epoch").groupby("name")
    then = by_name.last() if rule["at_epoch"] == LAST else epochs[epochs["epoch"] == rule["at_epoch"]].set_index("name")
    return frame.assign(**{metric: frame["name"].map(then[metric])})


def _try_rule(rule: Mapping[str, Any], frame: Frame, axes: list[str]) -> list[Outcome]:
    direction = "above" if "above" in rule else "below"
    others = rule[direction]
    return [
        _compare(rule, direction, other, frame, axes) for other in (others if isinstance(others, list) else [others])
    ]


def _compare(rule: Mapping[str, Any], direction: str, other: Any, frame: Frame, axes: list[str]) -> Outcome:
    metric, by = rule["metric"], rule.get("by", "spread")
    when = f" after {_epoch(rule['at_epoch'])}" if "at_epoch" in rule else ""
    margin = "" if by == "spread" else f" by more than {by}"
    claim = (
        rule.get("claim") or f"{metric} of {_shown(rule.get('of', {}))} is {direction} {_shown(other)}{margin}{when}"
    )
    mine = _Side(frame, rule.get("of", {}), metric, axes)
    theirs = None if is_number(other) else _Side(frame, other, metric, axes, without=rule.get("of", {}))
    missing = next((side.name for side in (mine, theirs) if side is not None and side.spread is None), None)
    if missing:
        return Outcome(claim, UNCLEAR, f"no finished run of {missing} has {metric}")
    assert mine.spread is not None
    reference = float(other) if theirs is None or theirs.spread is None else theirs.spread.mean
    difference = mine.spread.mean - reference
    stds = [side.std for side in (mine, theirs) if side is not None and side.std is not None]
    shown = [
        f"{side.name}: {number(side.spread.mean)} (n = {side.spread.count})"
        for side in (mine, theirs)
        if side and side.spread
    ]
    spread_text = f"the seeds' spread is {number(max(stds))}" if stds else "one seed each, so the spread is not known"
    figures = f"{metric}{when}, {'; '.join(shown)}; difference {difference:+.4g}; {spread_text}"
    if not stds and by == "spread":
        return Outcome(claim, UNCLEAR, figures)
    excess = (difference if direction == "above" else -difference) - (0.0 if by == "spread" else float(by))
    noise = max(stds, default=0.0)
    verdict = SHOWS if excess > noise else DOES_NOT_SHOW if excess < -noise else UNCLEAR
    return Outcome(claim, verdict, figures)


def _epoch(epoch: Any) -> str:
    return "the last epoch" if epoch == LAST else f"epoch {epoch}"


class _Side:
    """One side of a comparison: the finished runs that a selector takes.

    `std` is the spread over seeds and folds within a setting, pooled over the settings taken; None without repeats.
    """

    def __init__(
        self,
        frame: Frame,
        selector: Mapping[str, Any],
        metric: str,
        axes: list[str],
        without: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = _shown(selector) if selector or not without else "all others"
        taken = frame[_matches(frame, selector)]
        if without and dict(without) != dict(selector):
            taken = taken[~_matches(taken, without)]
        if metric != "diverged":
            taken = taken[taken["state"] == "finished"]
        values = taken[metric].astype(float) if metric in taken.columns else pd.Series(dtype=float)
        self.spread = Spread.of(values.tolist())
        self.std = _pooled_std(taken, values, axes)


def _pooled_std(taken: Frame, values: Frame, axes: list[str]) -> float | None:
    groups = [values] if not axes else [values[group.index] for _, group in taken.groupby(axes, dropna=False)]
    spreads = [spread for group in groups if (spread := Spread.of(group.tolist())) and spread.std is not None]
    freedom = sum(spread.count - 1 for spread in spreads)
    if not freedom:
        return None
    return math.sqrt(sum((spread.count - 1) * (spread.std or 0.0) ** 2 for spread in spreads) / freedom)


def _matches(frame: Frame, selector: Mapping[str, Any]) -> Frame:
    matches = pd.Series(True, index=frame.index)
    for axis, value in selector.items():
        matches &= frame[axis].isin([typed(value)]) if axis in frame else False
    return matches.astype(bool)


def _shown(selector: Any) -> str:
    if not isinstance(selector, Mapping):
        return str(selector)
    return ", ".join(f"{axis}={value}" for axis, value in selector.items()) or "all runs"
