"""The best trial of a search as an experiment file that `python train.py` runs again."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import yaml

from lithydra.files import write_text
from lithydra.overrides import split_override, typed
from lithydra.search.space import override_value
from lithydra.sweeps.directory import Job, Plan, SweepDir

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

LEFT_OUT = ("run", "resume", "sweep", "hydra", "paths", "study", "debug")  # of the search, not of the best


def best_trials(study: "Study") -> "list[FrozenTrial]":
    """The best first; of several objectives, the trials that no other beats in all."""
    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        return []
    if len(study.directions) == 1:
        return [study.best_trial]
    sign = 1 if study.directions[0].name == "MINIMIZE" else -1
    return sorted(study.best_trials, key=lambda trial: sign * trial.values[0])


def write_best(
    directory: SweepDir, plan: Plan, study: "Study", is_group: Callable[[str], bool]
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
    again = best_again(directory, job)
    values = ", ".join(f"{value:.6g}" for value in trials[0].values)
    origin = f"Trial {trials[0].number} of the search {plan.name}: {values}. Copy it to conf/experiment/ to keep it."
    file = directory.path / "experiment" / "best.yaml"
    file.parent.mkdir(exist_ok=True)
    write_text(file, f"# @package _global_\n# {again}\n# {origin}\n{experiment(job.overrides, is_group)}")
    return f"{values} ({job.name})", again


def best_again(directory: SweepDir, job: Job) -> str:
    """The command that trains the best once more: best.yaml, and what a file cannot say, `~key`."""
    deletions = [override for override in job.overrides if override.startswith("~")]
    return shlex.join(["python", "train.py", "--config-dir", str(directory.path), "experiment=best", *deletions])


def experiment(overrides: list[str], is_group: Callable[[str], bool]) -> str:
    """`group=choice` in the defaults list, `key=value` as nested settings; `~key` has no form in a file."""
    defaults: list[Any] = []
    settings: dict[str, Any] = {}
    for key, value in map(split_override, (text for text in overrides if not text.startswith("~"))):
        if key.split(".")[0].split("/")[0] in LEFT_OUT:
            continue
        if key == "experiment":
            defaults.insert(0, value)
        elif is_group(key):
            defaults.append({f"override /{key}": yaml.safe_load(value)})
        else:
            node = settings
            *parents, leaf = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = plain(value)
    return yaml.safe_dump({"defaults": [*defaults, "_self_"], **settings}, sort_keys=False, allow_unicode=True)


def plain(text: str) -> Any:
    """An override's value as YAML would hold it: YAML 1.1 takes 1e-05 for text."""
    value = typed(text)
    return value if isinstance(value, (int, float, bool)) else yaml.safe_load(text)
