"""Optuna's side of a search: where trials are kept, what suggests them, what stops them early."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lithydra.errors import ConfigError
from lithydra.search.settings import Settings

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import Trial

STUDY = "search"  # the name of the study in its storage


def import_optuna() -> Any:
    """Optuna, quiet: the search says itself how it goes.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("hydra/sweeper=optuna: Optuna is not installed; pip install -e '.[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def storage_address(kind: str, folder: str) -> str:
    """Where the trials are kept, as one piece of text that every process of the search can open."""
    return f"sqlite:///{folder}/optuna.db" if kind == "sqlite" else f"journal:{folder}/optuna.log"


def forget(folder: Path) -> None:
    """Remove the trials, and the best of them."""
    for name in ("optuna.db", "optuna.log", "experiment/best.yaml"):
        (folder / name).unlink(missing_ok=True)


def open_storage(address: str) -> "BaseStorage":
    optuna = import_optuna()
    if address.startswith("journal:"):
        backend = optuna.storages.journal.JournalFileBackend(address.removeprefix("journal:"))
        return optuna.storages.JournalStorage(backend)
    # Several jobs report at once: the file is waited for, not given up.
    return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 60}})


def sampler(settings: Settings, count: int) -> "BaseSampler":
    """What suggests a trial when `count` have been suggested before.

    With a seed alone, a continued search would draw the first trials' numbers again. So there is a new sampler for each
    trial, seeded with its number, and a continued search suggests what an uninterrupted one would.
    """
    samplers = import_optuna().samplers
    classes = {"tpe": samplers.TPESampler, "cmaes": samplers.CmaEsSampler, "nsgaii": samplers.NSGAIISampler}
    make = classes.get(settings.sampler, samplers.RandomSampler)  # a grid's points are enqueued
    try:
        return make(seed=settings.seed + count, **settings.sampler_options)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"hydra.sweeper.sampler={settings.sampler}: {_first_line(error)}") from error


def pruner(kind: str, max_epochs: int, options: Mapping[str, Any]) -> "BasePruner":
    """What decides after each epoch whether a trial goes on."""
    pruners = import_optuna().pruners
    try:
        if kind == "median":
            return pruners.MedianPruner(**options)
        if kind == "hyperband":
            return pruners.HyperbandPruner(**{"min_resource": 1, "max_resource": max_epochs, **options})
        return pruners.NopPruner()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hydra.sweeper.pruner_options: {_first_line(error)}") from error


def trial_of(study: "Study", number: int) -> "Trial":
    """The trial `number` of a study, to be gone on with in this process."""
    optuna = import_optuna()
    frozen = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    return optuna.trial.Trial(study, frozen._trial_id)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
