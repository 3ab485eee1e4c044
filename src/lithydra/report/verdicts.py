"""Whether a study shows what was expected: comparisons that the study file declares, and what came out of them.

docs/studies.md describes the form of a rule and the tests that decide. Nothing in a rule is executed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lithydra.overrides import FOLDED, bare
from lithydra.report import significance
from lithydra.report.sides import Side, described, keep_shared, matches, one_sample, two_samples
from lithydra.report.significance import LEVEL
from lithydra.run.metric_names import better
from lithydra.sweeps.directory import Plan
from lithydra.sweeps.results import Frame, number, ranked_settings
from lithydra.sweeps.study import BEST, LAST, is_number, mentions_best, others_of, rule_problem, rules_of

SHOWS, DOES_NOT_SHOW, UNCLEAR = "shows", "does not show", "unclear"
MIN_SETTINGS = 5  # that `rises_with` ranks; four agree by chance in 8 % of cases


@dataclass(frozen=True)
class Outcome:
    """What became of one rule: the claim in words, the verdict, and the figures that it rests on."""

    claim: str
    verdict: str
    figures: str


@dataclass(frozen=True)
class Comparison:
    """A rule before all are judged together.

    Attributes:
        excess: how far the figures are in the direction claimed; below 0 against it.
        p: of such an excess by chance alone; None where nothing can tell.
        figures: what was compared, and where p is None, why nothing can tell.
        test: what p is of, in a few words.
    """

    claim: str
    figures: str
    excess: float = 0.0
    p: float | None = None
    test: str = ""

    def outcome(self, p: float, count: int) -> Outcome:
        """The verdict, with `p` corrected for the `count` comparisons of the study."""
        if self.p is None:
            return Outcome(self.claim, UNCLEAR, self.figures)
        corrected = f"; corrected for {count} comparisons" if count > 1 else ""
        figures = f"{self.figures}; p = {p:.2g} ({self.test}{corrected})"
        decided = SHOWS if self.excess > 0 else DOES_NOT_SHOW
        return Outcome(self.claim, decided if p < LEVEL else UNCLEAR, figures)


def overall(outcomes: list[Outcome]) -> str:
    """`shows` where every rule does, `does not show` where one does not, else `unclear`."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if DOES_NOT_SHOW in verdicts:
        return DOES_NOT_SHOW
    return SHOWS if verdicts == {SHOWS} else UNCLEAR


def judge(plan: Plan, frame: Frame, epochs: Frame) -> list[Outcome]:
    """Try each rule of the plan's study.

    Args:
        frame: `lithydra.results` of the sweep.
        epochs: `sweep_results.curves` of it.
    """
    axes = {bare(axis): values for axis, values in plan.axes.items()}
    settings = [axis for axis in axes if axis not in FOLDED]
    ended = {"diverged": 1.0, "finished": 0.0}
    frame = frame.assign(diverged=frame["state"].map(ended).astype(float))
    if {"train/acc", "val/acc"} <= set(frame.columns):
        frame["gap"] = frame["train/acc"] - frame["val/acc"]
    if {"val/acc", "test/acc"} <= set(frame.columns):
        frame["optimism"] = frame["val/acc"] - frame["test/acc"]
    ranked = [s for s in ranked_settings(frame, plan) if plan.objective["metric"] in s.metrics]
    frame[BEST] = frame.index.isin(ranked[0].jobs.index if ranked else [])
    comparisons: list[Comparison] = []
    for rule in rules_of(plan.study):
        if problem := rule_problem(rule, axes, plan.objective["metric"]):
            comparisons.append(Comparison(f"{rule}", problem))
        else:
            chosen = _with_time(_with_epoch(frame, epochs, rule), epochs, rule)
            comparisons += _try_rule(rule, chosen, settings, len(ranked))
    corrected = significance.holm(np.array([1.0 if c.p is None else c.p for c in comparisons]))
    return [c.outcome(float(p), len(comparisons)) for c, p in zip(comparisons, corrected, strict=True)]


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


def _with_time(frame: Frame, epochs: Frame, rule: Mapping[str, Any]) -> Frame:
    """With `until`, the seconds of each job are those of training until then."""
    if "until" not in rule:
        return frame
    ((metric, value),) = rule["until"].items()
    if not {metric, "training_seconds"} <= set(epochs.columns):
        return frame.assign(seconds=math.nan)
    return frame.assign(seconds=seconds_until(frame, epochs, metric, value, at_least=better(metric) == "max"))


def seconds_until(frame: Frame, epochs: Frame, metric: str, value: float, *, at_least: bool) -> Frame:
    """Of each job, seconds of training to the end of the first epoch that has reached a value; infinite for none."""
    has_reached = epochs[metric] >= value if at_least else epochs[metric] <= value
    reached = epochs[has_reached].sort_values("epoch").groupby("name")["training_seconds"]
    return frame["name"].map(reached.first()).fillna(math.inf)


def _try_rule(rule: Mapping[str, Any], frame: Frame, settings: list[str], choices: int) -> list[Comparison]:
    if "rises_with" in rule:
        return [_correlate(rule, frame, settings)]
    direction = "above" if "above" in rule else "below"
    return [_compare(rule, direction, other, frame, settings, choices) for other in others_of(rule)]


def _compare(
    rule: Mapping[str, Any], direction: str, other: Any, frame: Frame, settings: list[str], choices: int
) -> Comparison:
    metric, by, of = rule["metric"], float(rule.get("by", 0)), rule.get("of", {})
    when = f" after {_epoch(rule['at_epoch'])}" if "at_epoch" in rule else ""
    if "until" in rule:
        ((reached, value),) = rule["until"].items()
        when = f" until {reached} {'≥' if better(reached) == 'max' else '≤'} {value}"
    margin = f" by more than {rule['by']}" if by else ""
    claim = rule.get("claim") or f"{metric} of {described(of)} is {direction} {described(other)}{margin}{when}"
    mine = Side(frame, of, metric, settings)
    theirs = None if is_number(other) else Side(frame, other, metric, settings, without=of)
    sides = [mine] if theirs is None else [mine, theirs]
    never = [f"{side.never} of {side.name}" for side in sides if side.never]
    if "until" in rule and never:
        return Comparison(claim, f"never reached{when.replace(' until', '')} by {' and '.join(never)}")
    if missing := next((side.name for side in sides if not side.runs), None):
        return Comparison(claim, f"no finished run of {missing} has {metric}")
    lost = [] if theirs is None else keep_shared(mine, theirs, settings, [*of, *other])
    if not mine.runs:
        return Comparison(claim, f"no setting has finished with both {mine.name} and {sides[-1].name}")
    sign = 1.0 if direction == "above" else -1.0
    if theirs is None:
        difference, p, test = one_sample(mine, float(other), sign * by)
    else:
        difference, p, test = two_samples(mine, theirs, sign * by)
    shown = "; ".join(f"{side.name}: {number(side.mean)} (n = {side.count})" for side in sides)
    figures = f"{metric}{when}, {shown}; difference {difference:+.4g}{_left_out(lost)}"
    if p is None:
        return Comparison(claim, f"{figures}; {test}")
    if choices > 1 and (mentions_best(of) or mentions_best(other)):
        p, test = min(1.0, p * choices), f"{test}, the best of {choices}"
    return Comparison(claim, figures, sign * difference - by, p, test)


def _correlate(rule: Mapping[str, Any], frame: Frame, settings: list[str]) -> Comparison:
    """Whether what is ahead by one metric is ahead by another: Kendall's rank correlation over the settings."""
    metric, other, of = rule["metric"], rule["rises_with"], rule.get("of", {})
    claim = rule.get("claim") or f"{metric} rises with {other}"
    frame = frame[matches(frame, of) & (frame["state"] == "finished")]
    if not {metric, other} <= set(frame.columns):
        return Comparison(claim, f"no finished run of {described(of)} has {metric} and {other}")
    means = frame.groupby(settings, dropna=False)[[metric, other]].mean().dropna()
    if len(means) < MIN_SETTINGS:
        return Comparison(claim, f"{len(means)} settings: fewer than {MIN_SETTINGS} tell nothing")
    from scipy.stats import kendalltau

    found: Any = kendalltau(means[metric], means[other])
    tau, p = float(found.statistic), float(found.pvalue)
    if math.isnan(p):
        return Comparison(claim, f"all {len(means)} settings have the same {metric} or {other}")
    return Comparison(claim, f"Kendall's rank correlation {tau:+.2f}", tau, p, f"{len(means)} settings")


def _left_out(lost: list[str], limit: int = 5) -> str:
    named = ", ".join([*lost[:limit], *([f"{len(lost) - limit} more"] if len(lost) > limit else [])])
    return f"; without {named}: not finished on both sides" if lost else ""


def _epoch(epoch: Any) -> str:
    return "the last epoch" if epoch == LAST else f"epoch {epoch}"
