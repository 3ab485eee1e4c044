"""Writes metrics.csv as the run goes, and measures its speed."""

import time

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.training.checkpoint import run_dir
from lithydra.training.teller import teller


class MetricsWriter(Checkpoint):  # a Checkpoint, so that it runs when the epoch's metrics are known
    """A row in metrics.csv after each epoch; `images_per_second` is the last epoch's, validation left out.

    The row is written before the checkpoint: a kill between the two leaves a row too many, which resuming drops, and
    never one too few.
    """

    def __init__(self) -> None:
        self.images_per_second: float | None = None
        self._epoch_start = self._training_seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_start = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        self._training_seconds = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training_seconds = time.perf_counter() - self._epoch_start

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        told, seconds = teller(trainer), time.perf_counter() - self._epoch_start
        if told.num_images is not None:
            self.images_per_second = told.num_images * trainer.world_size / (self._training_seconds or seconds)
            told.write({"images_per_second": self.images_per_second}, trainer.global_step)
        if not trainer.is_global_zero:
            return
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **told.epoch_metrics}
        run_dir(trainer).add_metrics({**row, "seconds": round(seconds, 3)}, told.metric_names)


def images_per_second(trainer: L.Trainer) -> float | None:
    return next((c.images_per_second for c in trainer.callbacks if isinstance(c, MetricsWriter)), None)  # pyright: ignore[reportAttributeAccessIssue]
