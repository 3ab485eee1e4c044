"""lithydra: a research template for image classification on PyTorch Lightning and Hydra.

A room imports only rooms below it (tests/test_rooms.py). From the command line down to the ground:

    cli             the command line, a table of verbs
    verbs           what is done with a run
    search          Optuna chooses the points of a sweep
    report          a sweep's page, tables, verdicts
    sweep           many runs: plan, launcher, results
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

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lithydra.sweep.results import results
    from lithydra.training.loading import load

__all__ = ["load", "results"]


def __getattr__(name: str) -> Any:
    """`load` and `results`, imported when asked for: torch takes seconds, and a typo on the command line must not."""
    if name == "load":
        from lithydra.training.loading import load

        return load
    if name == "results":
        from lithydra.sweep.results import results

        return results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
