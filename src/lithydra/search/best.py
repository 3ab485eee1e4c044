"""The best trial of a search as an experiment file that `python train.py` runs again."""

import shlex
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lithydra.files import write_text
from lithydra.overrides import bare
from lithydra.search.space import override_value
from lithydra.sweeps.directory import Job, Plan, SweepDir

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

LEFT_OUT = ("run", "resume", "sweep", "hydra", "paths", "debug")  # of the search, not of the best
# Groups that would win over best.yaml, or are its own: what they give is written out.
WRITTEN_OUT = ("experiment", "study", "variant")


def best_trials(study: "Study") -> "list[FrozenTrial]":
    """The best first; of several objectives, the trials that no other beats in all."""
    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        return []
    if len(study.directions) == 1:
        return [study.best_trial]
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    return sorted(study.best_trials, key=lambda trial: sign * trial.values[0])


def write_best(
    directory: SweepDir, plan: Plan, study: "Study", loader: ConfigLoader, master: DictConfig
) -> tuple[str, str] | None:
    """Write experiment/best.yaml in the sweep's directory; None where no trial finished.

    Returns:
        Scores and name of the best, and the command that trains it again.

    Of several objectives, the best by the first among those that no other beats in all.
    """
    trials = best_trials(study)
    if not trials:
        return None
    texts = {f"{key}={override_value(value)}" for key, value in trials[0].params.items()}
    job = next(job for job in plan.jobs if texts <= set(job.overrides))
    places = [text for text in master.hydra.overrides.hydra if bare(text) == "hydra.searchpath"]
    again = best_again(directory, job, places)
    values = ", ".join(f"{value:.6g}" for value in trials[0].values)
    origin = f"Trial {trials[0].number} of the search {plan.name}: {values}. Copy it to conf/experiment/ to keep it."
    file = directory.path / "experiment" / "best.yaml"
    file.parent.mkdir(exist_ok=True)
    content = experiment(loader, master.hydra.job.config_name, tuple(job.overrides), tuple(places))
    write_text(file, f"# @package _global_\n# {again}\n# {origin}\n{content}")
    return f"{values} ({job.name})", again


def best_again(directory: SweepDir, job: Job, places: list[str]) -> str:
    """The command that trains the best once more: best.yaml, and what a file cannot say, as `~key`."""
    deletions = [override for override in job.overrides if override.startswith("~")]
    command = ["python", "train.py", "--config-dir", str(directory.path), "experiment=best"]
    return shlex.join([*command, *places, *deletions])


@lru_cache(maxsize=1)
def experiment(loader: ConfigLoader, config_name: str, overrides: tuple[str, ...], places: tuple[str, ...] = ()) -> str:
    """What a job's overrides give, with its study and experiment: choices of groups, and settings beside them.

    The settings are those in which the job's config differs from that of the choices alone. `~key` has no form in a
    file.

    Args:
        places: hydra.searchpath, where it was given.
    """
    given = [text for text in overrides if not text.startswith("~") and _top(text) not in LEFT_OUT]
    chosen = loader.compute_defaults_list(config_name, [*places, *given], RunMode.RUN).overrides.override_choices
    groups = {key: choice for key, choice in chosen.items() if _top(key) not in (*LEFT_OUT, *WRITTEN_OUT)}
    base = _composed(loader, config_name, [*places, *(f"{key}={_text(choice)}" for key, choice in groups.items())])
    for key in map(bare, given):
        if key not in chosen:  # so that the file says what was searched, also where it is the default
            _remove(base, *key.split("."))
    settings = _difference(base, _composed(loader, config_name, [*places, *given]))
    defaults = [*({f"override /{key}": choice} for key, choice in groups.items()), "_self_"]
    return yaml.safe_dump({"defaults": defaults, **settings}, sort_keys=False, allow_unicode=True)


def _composed(loader: ConfigLoader, config_name: str, overrides: list[str]) -> dict[str, Any]:
    """The config with its interpolations as they stand, without what belongs to a search."""
    config = loader.load_configuration(config_name, overrides, RunMode.RUN)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in plain.items() if key not in (*LEFT_OUT, "study")}


def _top(key: str) -> str:
    return bare(key).split(".")[0].split("/")[0]


def _text(choice: Any) -> str:
    return "null" if choice is None else f"[{','.join(choice)}]" if isinstance(choice, list) else str(choice)


def _remove(node: dict[str, Any], *path: str) -> None:
    inner = node.get(path[0])
    if len(path) == 1:
        node.pop(path[0], None)
    elif isinstance(inner, dict):
        _remove(inner, *path[1:])


def _difference(base: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """The settings of `whole` that `base` has not, or otherwise."""
    found: dict[str, Any] = {}
    for key, value in whole.items():
        before = base.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := _difference(before, value):
                found[key] = inner
        elif key not in base or (type(before), before) != (type(value), value):
            found[key] = value
    return found
