"""The form of a study's rules, checked before its first job. Light: no pandas. docs/studies.md describes them."""

from collections.abc import Mapping
from typing import Any

from lithydra.axis_values import typed
from lithydra.errors import ConfigError, nearest

KEYS = ("claim", "metric", "of", "above", "below", "by", "at_epoch")
# What can be compared besides the metrics of the best epoch.
DERIVED = ("gap", "optimism", "seconds", "best_epoch", "diverged")
WITHOUT = " study.verdict=[] judges nothing"
BY_EPOCH = ("gap",)  # of these, the ones that have a value after each epoch
LAST = "last"  # at_epoch
BEST = "best"  # {best: true} is the run that validation chose


def check_rules(study: Mapping[str, Any], axes: Mapping[str, list[str]]) -> None:
    """Refuse a study's rules before its first job.

    Raises:
        ConfigError: One names an axis or a value that the sweep does not have, or is not of the documented form.
    """
    rules = study.get("verdict", [])
    if not isinstance(rules, list):
        raise ConfigError(f"study.verdict={rules}: must be a list of comparisons")
    for position, rule in enumerate(rules):
        problem = _problem(rule, axes)
        if problem:
            raise ConfigError(f"study.verdict[{position}]: {problem}")


def _problem(rule: Any, axes: Mapping[str, list[str]]) -> str | None:
    if not isinstance(rule, Mapping):
        return f"{rule}: must be a mapping with {', '.join(KEYS)}"
    for key in rule:
        if key not in KEYS:
            return f"{key}: must be one of {', '.join(KEYS)}.{nearest(str(key), KEYS)}"
    if not isinstance(rule.get("metric"), str) or not ("/" in rule["metric"] or rule["metric"] in DERIVED):
        return f"metric={rule.get('metric')}: must be split/name, as val/acc, or one of {', '.join(DERIVED)}"
    if ("above" in rule) == ("below" in rule):
        return "must have one of above, below"
    if "at_epoch" in rule and (problem := _epoch_problem(rule["metric"], rule["at_epoch"])):
        return problem
    by = rule.get("by", "spread")
    if by != "spread" and not is_number(by):
        return f"by={by}: must be spread or a number"
    others = rule.get("above", rule.get("below"))
    selectors = [rule.get("of", {}), *([] if is_number(others) else others if isinstance(others, list) else [others])]
    return next((problem for selector in selectors if (problem := _selector_problem(selector, axes))), None)


def _epoch_problem(metric: str, epoch: Any) -> str | None:
    if epoch != LAST and not (isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0):
        return f"at_epoch={epoch}: must be a number from 1 on, or {LAST}"
    if metric.startswith("test/") or (metric in DERIVED and metric not in BY_EPOCH):
        return f"at_epoch={epoch}: {metric} has no value by epoch"
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
    return isinstance(value, (int, float)) and not isinstance(value, bool)
