"""Optuna's side of a search: the storage of trials, the sampler and the pruner."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lithydra.errors import ConfigError, first_line
from lithydra.search.settings import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

STUDY = "search"  # the name of the study in its storage
N_TRIALS = "n_trials"  # an attribute of the study: how many the search that runs goes on to
IMPORTED = ("optuna", "sqlalchemy.dialects.sqlite", "alembic.command")  # by a job that opens the study


def import_optuna() -> Any:
    """Optuna, without its own progress messages: the search prints them.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "hydra/sweeper=optuna: Optuna is not installed; pip install -c constraints.txt -e '.[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def storage_address(kind: str, folder: str) -> str:
    """Where the trials are stored, as text that every process of the search can open."""
    return f"sqlite:///{folder}/optuna.db" if kind == "sqlite" else f"journal:{folder}/optuna.log"


def storage_file(address: str) -> Path:
    """The file of a storage's address."""
    return Path(address.removeprefix("sqlite:///").removeprefix("journal:"))


def forget(folder: Path) -> None:
    """Remove the trials, and the best of them."""
    for name in ("optuna.db", "optuna.log", "experiment/best.yaml"):
        (folder / name).unlink(missing_ok=True)


def open_storage(address: str) -> "BaseStorage":
    """Raises ConfigError where the file holds something else."""
    optuna, file = import_optuna(), storage_file(address)
    try:
        if address.startswith("journal:"):
            backend = optuna.storages.journal.JournalFileBackend(str(file))
            return optuna.storages.JournalStorage(backend)
        from sqlalchemy.pool import NullPool  # it closes what it opens: Python 3.13 warns of files that stay open

        # Several jobs report at once: the file is waited for, not given up.
        return optuna.storages.RDBStorage(address, {"connect_args": {"timeout": 60}, "poolclass": NullPool})
    except Exception as error:  # of SQLAlchemy, sqlite3, json or Optuna
        raise ConfigError(
            f"{file}: not the trials of a search, or damaged ({first_line(error)}); without it the search suggests "
            "its trials again, and takes what the jobs have come to"
        ) from error


def sampler(settings: Settings, count: int) -> "BaseSampler":
    """The sampler for the trial after the first `count`.

    With one seed for all, a resumed search would draw the first trials' numbers again. So there is a new sampler for
    each trial, seeded with its number, and a resumed search suggests what an uninterrupted one would.
    """
    samplers = import_optuna().samplers
    classes = {"tpe": samplers.TPESampler, "cmaes": samplers.CmaEsSampler, "nsgaii": samplers.NSGAIISampler}
    make = classes.get(settings.sampler, samplers.RandomSampler)  # a grid's points are enqueued
    try:
        return make(seed=settings.seed + count, **settings.sampler_options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"hydra.sweeper.sampler={settings.sampler}: {first_line(error)}") from error


def with_all_parameters(
    study: "Study", trial: "FrozenTrial", distributions: "dict[str, BaseDistribution]"
) -> "FrozenTrial":
    """The trial, with those of its parameters that it lacks: Optuna stores one by one, and a kill may come between."""
    asked = import_optuna().trial.Trial(study, trial._trial_id)
    for name, distribution in distributions.items():
        asked._suggest(name, distribution)
    return study.get_trials()[trial.number]


def pruner(kind: str, max_epochs: int, options: Mapping[str, Any]) -> "BasePruner":
    """What decides after each epoch whether a trial is stopped."""
    pruners = import_optuna().pruners
    try:
        if kind == "median":
            return pruners.MedianPruner(**options)
        if kind == "hyperband":
            return pruners.HyperbandPruner(**{"min_resource": 1, "max_resource": max_epochs, **options})
        return pruners.NopPruner()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hydra.sweeper.pruner_options: {first_line(error)}") from error


def running_trial(address: str, number: int, how: "BasePruner") -> "Trial | None":
    """The trial `number` of the search at `address`, to report to from this process; None where it has ended.

    Raises:
        ConfigError: There is no such trial: a run that has been moved leaves its search behind.
    """
    if not storage_file(address).exists():
        raise ConfigError(f"{storage_file(address)}: no such file")
    optuna = import_optuna()
    try:
        study = optuna.load_study(study_name=STUDY, storage=open_storage(address), pruner=how)
        trial = study.get_trials(deepcopy=False)[number]
    except (KeyError, IndexError) as error:
        raise ConfigError(f"{storage_file(address)}: has no trial {number} of a search") from error
    return optuna.trial.Trial(study, trial._trial_id) if trial.state == optuna.trial.TrialState.RUNNING else None
