"""The settings of `hydra/sweeper=optuna`, checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from lithydra.errors import ConfigError, nearest
from lithydra.run.metric_names import BETTER, better

SAMPLERS = ("tpe", "random", "grid", "cmaes", "nsgaii")
PRUNERS = ("none", "median", "hyperband")
STORAGES = ("sqlite", "journal")


@dataclass(frozen=True)
class Settings:
    """What conf/hydra/sweeper/optuna.yaml says. `n_trials` is None for all points of a grid."""

    n_trials: int | None
    sampler: str
    sampler_options: dict[str, Any]
    seed: int
    pruner: str
    pruner_options: dict[str, Any]
    objectives: list[str]
    directions: list[str]
    storage: str
    params: dict[str, Any]

    @classmethod
    def checked(cls, given: Mapping[str, Any], config: DictConfig) -> "Settings":
        """Raises ConfigError where a setting, or two together, cannot work."""
        for key, choices in (("sampler", SAMPLERS), ("pruner", PRUNERS), ("storage", STORAGES)):
            _refuse_unknown(key, given[key], choices)
        n_trials = given["n_trials"]
        all_points = n_trials is None and given["sampler"] == "grid"
        if not all_points and (not isinstance(n_trials, int) or isinstance(n_trials, bool) or n_trials < 1):
            raise ConfigError(f"hydra.sweeper.n_trials={n_trials}: must be a whole number at least 1")
        if config.sweep.retry:
            raise ConfigError(
                "sweep.retry=true: not of a search, where a failed trial counts as one of n_trials and has told the "
                "sampler what to avoid; a larger hydra.sweeper.n_trials goes on with others"
            )
        objectives = list(given["objectives"] or [config.monitor.metric])
        _refuse_bad_objectives(objectives, config.monitor)
        if len(objectives) > 1 and given["pruner"] != "none":
            raise ConfigError(f"hydra.sweeper.pruner={given['pruner']}: with several objectives nothing can be pruned")
        mappings: dict[str, Any] = {
            key: dict(given[key] or {}) for key in ("sampler_options", "pruner_options", "params")
        }
        plain: dict[str, Any] = {key: given[key] for key in ("n_trials", "sampler", "seed", "pruner", "storage")}
        directions = [_direction(name, config.monitor) for name in objectives]
        return cls(objectives=objectives, directions=directions, **plain, **mappings)


def _direction(objective: str, monitor: DictConfig) -> str:
    mode = "min" if objective == "seconds" else better(objective)
    if mode is None and objective == monitor.metric:
        mode = monitor.mode
    if mode is None:
        known = f"whether more is better is known of {', '.join(BETTER)}"
        hint = nearest(objective, [f"val/{name}" for name in BETTER])
        raise ConfigError(f"hydra.sweeper.objectives={objective}: {known}.{hint}")
    return "maximize" if mode == "max" else "minimize"


def _refuse_unknown(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"hydra.sweeper.{key}={value}: one of {', '.join(choices)}.{nearest(str(value), choices)}")


def _refuse_bad_objectives(objectives: list[str], monitored: DictConfig) -> None:
    for name in objectives:
        if str(name).startswith("test/"):
            raise ConfigError(f"hydra.sweeper.objectives={name}: the test set chooses nothing; take val/{name[5:]}")
        _direction(str(name), monitored)
    if objectives[0] != monitored.metric:
        by = f"monitor.metric={monitored.metric}, which the best epoch goes by"
        raise ConfigError(f"hydra.sweeper.objectives: the first must be {by}, not {objectives[0]}")
