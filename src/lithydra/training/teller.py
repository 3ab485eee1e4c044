"""Who tells what a run measures: a classifier by itself, or what stands beside a person's own module."""

from typing import Any, Protocol

import lightning as L

from lithydra.training.classifier import Classifier


class Teller(Protocol):
    """What a run's files and its progress are made of.

    Attributes:
        epoch_metrics: of the epoch at hand, by name.
        metric_names: all that an epoch may have.
        num_images: trained by this process in the epoch; None where it is not known.
    """

    epoch_metrics: dict[str, float]
    metric_names: list[str]

    @property
    def num_images(self) -> int | None: ...

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to every logger."""
        ...


def teller(trainer: L.Trainer) -> Teller:
    module = trainer.lightning_module
    if isinstance(module, Classifier):
        return module
    callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next(callback for callback in callbacks if hasattr(callback, "epoch_metrics"))
