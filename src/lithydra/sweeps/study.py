"""The form of a study's rules, checked before its first job. Light: no pandas. docs/studies.md describes them."""

import math
from collections.abc import Mapping
from typing import Any

from lithydra.errors import ConfigError, nearest
from lithydra.overrides import FOLDED, typed
from lithydra.run.metric_names import better, parts

KEYS = ("claim", "metric", "of", "above", "below", "rises_with", "by", "at_epoch", "until")
KINDS = ("above", "below", "rises_with")
# What can be compared besides the metrics of the best epoch.
DERIVED = ("gap", "optimism", "seconds", "best_epoch", "diverged")
WITHOUT = " study.verdict=[] judges nothing"
BY_EPOCH = ("gap",)  # of these, the ones that have a value after each epoch
LAST = "last"  # at_epoch
BEST = "best"  # {best: true} is the setting that validation chose


def check_rules(study: Mapping[str, Any], axes: Mapping[str, list[str]], objective: str) -> None:
    """Refuse a study's rules before its first job.

    Args:
        objective: the metric that chooses the best setting.

    Raises:
        ConfigError: One names an axis or a value that the sweep does not have, or is not of the documented form.
    """
    if not isinstance(study.get("verdict", []), list):
        raise ConfigError(f"study.verdict={study['verdict']}: must be a list of comparisons")
    for position, rule in enumerate(rules_of(study)):
        problem = rule_problem(rule, axes, objective)
        if problem:
            raise ConfigError(f"study.verdict[{position}]: {problem}")


def rules_of(study: Mapping[str, Any] | None) -> list[Any]:
    rules = (study or {}).get("verdict", [])
    return rules if isinstance(rules, list) else [rules]


def rule_problem(rule: Any, axes: Mapping[str, list[str]], objective: str) -> str | None:
    """What is wrong with the form of a rule."""
    if not isinstance(rule, Mapping):
        return f"{rule}: must be a mapping with {', '.join(KEYS)}"
    for key in rule:
        if key not in KEYS:
            return f"{key}: must be one of {', '.join(KEYS)}.{nearest(str(key), KEYS)}"
    if not _is_metric(rule.get("metric")):
        return f"metric={rule.get('metric')}: must be split/name, as val/acc, or one of {', '.join(DERIVED)}"
    if sum(kind in rule for kind in KINDS) != 1:
        return f"must have one of {', '.join(KINDS)}"
    if "at_epoch" in rule and (problem := _epoch_problem(rule["metric"], rule["at_epoch"])):
        return problem
    if "until" in rule and (problem := _until_problem(rule["metric"], rule["until"])):
        return problem
    if not is_number(rule.get("by", 0)):
        return f"by={rule['by']}: must be a number"
    others = others_of(rule)
    if not others and "rises_with" not in rule:
        return "above and below: must not be an empty list"
    selectors = [rule.get("of", {}), *(other for other in others if not is_number(other))]
    problem = next((problem for selector in selectors if (problem := _selector_problem(selector, axes))), None)
    return problem or _pointless(rule, selectors, axes, objective)


def others_of(rule: Mapping[str, Any]) -> list[Any]:
    """What is compared with, each item by itself."""
    others = rule.get("above", rule.get("below", []))
    return others if isinstance(others, list) else [others]


def _pointless(
    rule: Mapping[str, Any], selectors: list[Any], axes: Mapping[str, list[str]], objective: str
) -> str | None:
    """What would be well formed and mean nothing."""
    metric = rule["metric"]
    if "rises_with" in rule:
        if not _is_metric(rule["rises_with"]) or rule["rises_with"] == metric:
            return f"rises_with={rule['rises_with']}: must be another metric"
        if surplus := next((key for key in ("by", "at_epoch", "until") if key in rule), None):
            return f"{surplus}: goes with above and below, not with rises_with"
        if set(axes) <= set(FOLDED):
            nothing = "ranks settings, and beside seed and data.fold nothing varies"
            return f"rises_with={rule['rises_with']}: {nothing}.{WITHOUT}"
    if metric == objective and any(map(mentions_best, selectors)):
        return f"metric={metric}: it chose {{best: true}}, which is its best by that; compare another, as test/acc"
    if metric == "diverged" and ("by" in rule or any(map(is_number, others_of(rule)))):
        return "metric=diverged: is compared with that of other runs, without by"
    return None


def mentions_best(selector: Any) -> bool:
    return isinstance(selector, Mapping) and BEST in selector


def _is_metric(metric: Any) -> bool:
    return isinstance(metric, str) and ("/" in metric or bool(parts(metric)[0]) or metric in DERIVED)


def _epoch_problem(metric: str, epoch: Any) -> str | None:
    if epoch != LAST and not (isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0):
        return f"at_epoch={epoch}: must be a number from 1 on, or {LAST}"
    if metric.startswith("test/") or (metric in DERIVED and metric not in BY_EPOCH):
        return f"at_epoch={epoch}: {metric} has no value by epoch"
    return None


def _until_problem(metric: str, until: Any) -> str | None:
    if metric != "seconds":
        return f"until: goes with metric=seconds, not with {metric}"
    if not (isinstance(until, Mapping) and len(until) == 1 and all(map(is_number, until.values()))):
        return f"until={until}: must be a metric and its value, as {{val/acc: 0.9}}"
    (reached,) = until
    if not _is_metric(reached) or reached.startswith("test/") or better(reached) is None:
        return f"until={until}: {reached} has no value by epoch of which it is known whether more or less is better"
    return None


def _selector_problem(selector: Any, axes: Mapping[str, list[str]]) -> str | None:
    if not isinstance(selector, Mapping):
        return f"{selector}: must be a mapping from an axis to its value, as {{lr: 0.1}}"
    for axis, value in selector.items():
        if axis == BEST and axis not in axes:
            if value is not True:
                return f"{axis}={value}: must be true"
            continue
        if axis not in axes:
            return f"{axis}: not varied here; the axes are {', '.join(axes)}.{nearest(str(axis), axes)}{WITHOUT}"
        if typed(value) not in [typed(choice) for choice in axes[axis]]:
            return f"{axis}={value}: must be one of {', '.join(axes[axis])}.{WITHOUT}"
    return None


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
