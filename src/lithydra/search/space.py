"""The space of a search, read from Hydra's sweep overrides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lithydra.errors import ConfigError
from lithydra.overrides import FOLDED, bare, refuse_axis

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `step` None is continuous."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def points(self) -> list[Any] | None:
        """All values; None where they cannot be counted."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        values = [self.low + i * self.step for i in range(count)]
        return [int(v) for v in values] if self.whole else values

    def ends(self) -> list[Any]:
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]


@dataclass(frozen=True)
class Options:
    """Some values, as the text of an override."""

    texts: tuple[str, ...]

    def distribution(self) -> "BaseDistribution":
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.texts)

    def points(self) -> list[Any]:
        return list(self.texts)

    def ends(self) -> list[Any]:
        return list(self.texts)


Space = dict[str, Range | Options]


def parse(arguments: Sequence[str], params: Mapping[str, Any], config_loader: Any = None) -> tuple[Space, list[str]]:
    """The space, and the overrides that do not vary.

    Args:
        arguments: The command line's overrides; they win over `params`.
        params: `hydra.sweeper.params` of a study or config file, key to range.

    Raises:
        ConfigError: Nothing varies, or a range makes no sense.
    """
    parser = OverridesParser.create(config_loader=config_loader)
    overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *arguments])
    latest = {override.get_key_element(): override for override in overrides}
    for override in latest.values():
        if override.is_sweep_override():
            refuse_axis(override)
    space = {key: _parameter(key, override) for key, override in latest.items() if override.is_sweep_override()}
    common = [str(override.input_line) for override in latest.values() if not override.is_sweep_override()]
    if not space:
        raise ConfigError("hydra/sweeper=optuna: nothing to search; give a range, as lr=tag(log,interval(1e-4,1e-1))")
    for key in space:
        if bare(key) in FOLDED:
            raise ConfigError(
                f"{key}: a search would choose the luckiest; search with one, then repeat the best with -m"
            )
    return space, common


def _parameter(key: str, override: Override) -> Range | Options:
    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        return _interval(key, value, log)
    if isinstance(value, RangeSweep):
        return _range(key, value, log)
    return Options(tuple(override.sweep_string_iterator()))


def _interval(key: str, value: IntervalSweep, log: bool) -> Range:
    assert value.start is not None and value.end is not None
    whole = isinstance(value.start, int) and isinstance(value.end, int)
    _refuse_bad_bounds(key, value.start, value.end, log)
    return Range(value.start, value.end, 1 if whole else None, log, whole)


def _range(key: str, value: RangeSweep, log: bool) -> Range:
    """Hydra's `range` leaves its end out, as Python's does."""
    assert value.start is not None and value.stop is not None
    start, stop, step = value.start, value.stop, value.step
    if step <= 0:
        raise ConfigError(f"{key}: the step of a range must be above 0, not {step}")
    count = math.ceil((stop - start) / step - 1e-9)
    last = start + (count - 1) * step
    whole = all(isinstance(number, int) for number in (start, stop, step))
    _refuse_bad_bounds(key, start, last, log)
    if log and not (whole and step == 1):
        raise ConfigError(f"{key}: a log range has no step; use tag(log,interval({start},{stop}))")
    return Range(start, last, step, log, whole)


def _refuse_bad_bounds(key: str, low: float, high: float, log: bool) -> None:
    if low > high:
        raise ConfigError(f"{key}: the range from {low} to {high} is empty")
    if log and low <= 0:
        raise ConfigError(f"{key}: a log range must begin above 0, not at {low}")


def override_value(value: Any) -> str:
    """A trial's value as the text of an override; of a number, all digits."""
    return value if isinstance(value, str) else repr(value)


def corners(space: Space) -> list[dict[str, Any]]:
    """A few points that hold every option and both ends of every range."""
    first = {key: parameter.ends()[0] for key, parameter in space.items()}
    return [first, *({**first, key: end} for key, parameter in space.items() for end in parameter.ends()[1:])]


def grid(space: Space) -> list[dict[str, Any]]:
    """Every point.

    Raises:
        ConfigError: An interval has no end of points.
    """
    grids: list[dict[str, Any]] = [{}]
    for key, parameter in space.items():
        points = parameter.points()
        if points is None:
            raise ConfigError(
                f"{key}: hydra.sweeper.sampler=grid needs single values, as {key}=0.1,0.01 or a range with a step"
            )
        grids = [{**point, key: value} for point in grids for value in points]
    return grids
