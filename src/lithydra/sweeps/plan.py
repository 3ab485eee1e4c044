"""What a sweep's command line asks for, and its points composed, checked and resolved before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from lithydra.checks.config import check
from lithydra.checks.messages import MENDABLE, one_line
from lithydra.errors import ConfigError
from lithydra.overrides import ABOUT_THE_SWEEP, group_problem, refuse_axis
from lithydra.run.config import frozen
from lithydra.sweeps.directory import config_key, readable_name


@dataclass(frozen=True)
class Request:
    """A command line, taken apart.

    Attributes:
        axes: override key -> the values it takes, as Hydra writes them, in order.
        common: the other overrides of every job.
        about: overrides of the sweep itself, as `sweep.n_jobs=2`.
        typed: keys on the command line; the others are a study's.
    """

    axes: dict[str, list[str]]
    common: list[str]
    about: list[str]
    typed: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, loader: ConfigLoader, params: Mapping[str, Any], arguments: Sequence[str]) -> "Request":
        """`params` (of a study file) with the command line's `arguments`, which win."""
        given = [*(f"{key}={_as_sweep(value)}" for key, value in params.items()), *arguments]
        parsed = OverridesParser.create(loader).parse_overrides(given)
        overrides = {o.get_key_element(): o for o in parsed}
        typed = frozenset(o.get_key_element() for o in parsed[len(params) :])
        axes: dict[str, list[str]] = {}
        common: list[str] = []
        about: list[str] = []
        for key, override in overrides.items():
            if override.is_sweep_override():
                refuse_axis(override)
                axes[key] = _values(override)
            elif key.lstrip("+~").partition(".")[0] in ABOUT_THE_SWEEP:
                about.append(_text(override))
            else:
                common.append(_text(override))
        return cls(axes, common, about, typed)

    def default_name(self, study: str | None) -> str:
        """The same for the same command line, in whatever order. A study's name comes first."""
        settings = {key: ",".join(values) for key, values in self.axes.items() if key in self.typed}
        settings |= dict(text.split("=", 1) for text in self.common if "=" in text)
        if study is None:
            return readable_name(settings, empty="single")
        settings.pop("study", None)
        base = study.replace("/", "-")
        return f"{base}_{readable_name(settings)}" if settings else base


@dataclass(frozen=True)
class Prepared:
    """A point that can run: its resolved config and all that its job will need of Hydra."""

    key: str
    varied: dict[str, str]
    overrides: list[str]
    config: dict[str, Any]
    choices: dict[str, str]


def prepare(
    loader: ConfigLoader, master: DictConfig, request: Request, points: Sequence[Mapping[str, str]]
) -> list[Prepared]:
    """Compose, check and resolve points (override key -> value) on top of what the command line says for all.

    Raises:
        ConfigError: Some points cannot work; it lists all their problems.
    """
    composer = Composer(loader, master, [*request.about, *request.common])
    prepared: list[Prepared] = []
    problems: dict[str, None] = {}
    failed: list[Mapping[str, str]] = []
    for point in points:
        try:
            prepared.append(_prepare(composer, request, dict(point)))
        except MENDABLE as error:
            problems |= dict.fromkeys(one_line(error).splitlines())
            failed.append(point)
    if prepared and failed:
        problems[_how_to_leave_out(failed, [point.varied for point in prepared])] = None
    if problems:
        raise ConfigError("\n".join(problems))
    return prepared


def _how_to_leave_out(failed: Sequence[Mapping[str, str]], good: Sequence[Mapping[str, str]]) -> str:
    """Which points cannot run, and where one axis decides that, its values without theirs."""
    text = f"{len(failed)} of {len(failed) + len(good)} points cannot run"
    for key in failed[0]:
        bad, kept = (list(dict.fromkeys(point[key] for point in points)) for points in (failed, good))
        if not set(bad) & set(kept):
            return f"{text}, those with {key}={','.join(bad)}; {key}={','.join(kept)} leaves them out"
    shown = "; ".join(" ".join(f"{key}={value}" for key, value in point.items()) for point in failed[:5])
    return f"{text}: {shown}" + ("; …" if len(failed) > 5 else "")


class Composer:
    """Composes points. Hydra takes 0.2 s for one, so that points of the same groups share all but their own values."""

    def __init__(self, loader: ConfigLoader, master: DictConfig, common: Sequence[str]) -> None:
        self.loader, self.master, self.common = loader, master, common
        self._of_groups: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def compose(self, point: Mapping[str, str]) -> tuple[DictConfig, dict[str, str]]:
        """The config of a point, and the option that was taken in each group."""
        overrides = OverridesParser.create(self.loader).parse_overrides([f"{k}={v}" for k, v in point.items()])
        for problem in filter(None, map(group_problem, overrides)):
            raise ConfigError(problem)
        values = [o for o in overrides if not self._is_group(o)]
        groups = tuple(str(o.input_line) for o in overrides if self._is_group(o))
        if groups not in self._of_groups:
            self._of_groups[groups] = self._compose_groups(groups)
        base, choices = self._of_groups[groups]
        config = base.copy()
        ConfigLoaderImpl._apply_overrides_to_config(values, config)  # as Hydra does it after composing the groups
        return config, choices

    def _is_group(self, override: Override) -> bool:
        return bool(self.loader.get_group_options(override.key_or_group))

    def _compose_groups(self, groups: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        composed = self.loader.load_sweep_config(self.master, [*self.common, *groups])
        choices = {str(group): str(choice) for group, choice in composed.hydra.runtime.choices.items()}
        with open_dict(composed):
            del composed["hydra"]
        return composed, {group: choice for group, choice in choices.items() if not group.startswith("hydra")}


def _prepare(composer: Composer, request: Request, varied: dict[str, str]) -> Prepared:
    composed, choices = composer.compose(varied)
    overrides = [*request.common, *(f"{key}={value}" for key, value in varied.items())]
    check(composed, choices)
    for key in ("run", "resume"):
        if composed[key] is not None:
            raise ConfigError(
                f"{key}={composed[key]}: names one run; a sweep names its runs itself and goes on by itself"
            )
    config = frozen(composed)
    return Prepared(config_key(config), varied, overrides, config, choices)


def _values(override: Override) -> list[str]:
    if not override.is_discrete_sweep():
        reason = "hydra/sweeper=grid takes a,b,c or range(0,5); an interval needs hydra/sweeper=optuna"
        raise ConfigError(f"{override.input_line}: {reason}")
    try:
        values = list(override.sweep_string_iterator())
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from error
    if not values:
        raise ConfigError(f"{override.input_line}: an empty list; nothing to sweep over")
    return values


def _text(override: Override) -> str:
    if override.is_delete():
        return override.input_line or ""
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _as_sweep(value: Any) -> str:
    """A study's list of values as Hydra's `a,b,c`."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, (list, tuple)):
        return ",".join(
            "[" + ",".join(map(str, item)) + "]" if isinstance(item, list) else _word(item) for item in value
        )
    return str(value)


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
