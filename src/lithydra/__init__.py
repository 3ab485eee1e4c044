"""lithydra: a research template for image classification on PyTorch Lightning and Hydra.

A room imports only rooms below it (tests/test_rooms.py). From the command line down to the ground:

    cli             the command line
    api             train, sweep and runs from Python
    verbs           the table of verbs, and what is done with a run
    search          Optuna chooses the points of a sweep
    report          a sweep's page, tables, verdicts
    sweeps          many runs: plan, launcher, results
    callbacks       what conf/callbacks and conf/logger name
    training        one run: build, engine, resuming, processes
    checks          settings are refused before torch loads
    run             one run's directory: files, checkpoints, page
    methods         what happens in a training step
    data models augmentations losses metrics normalization optimizers regularizers schedules
                    what conf/ names: edit here
    errors files logs overrides
                    the ground

docs/tour.md follows a setting, an image and a sweep through them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lithydra.api import Run, Sweep, sweep, train
    from lithydra.report.all_runs import runs
    from lithydra.sweeps.results import results
    from lithydra.training.loading import load

# Of each name, its module; imported when asked for: torch takes seconds, and a typo on the command line must not.
_MODULES = {
    **dict.fromkeys(("Run", "Sweep", "sweep", "train"), "lithydra.api"),
    "load": "lithydra.training.loading",
    "results": "lithydra.sweeps.results",
    "runs": "lithydra.report.all_runs",
}
__all__ = ["Run", "Sweep", "load", "results", "runs", "sweep", "train"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
