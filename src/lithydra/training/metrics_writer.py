"""Writes metrics.csv as the run goes, and measures its speed."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.training.checkpoint import run_dir
from lithydra.training.teller import teller


class MetricsWriter(Checkpoint):  # a Checkpoint, so that it runs when the epoch's metrics are known
    """A row in metrics.csv after each epoch; `images_per_second` is the last epoch's, validation left out.

    `training_seconds` are those of all epochs so far, validation left out, and of all parts of a resumed run.

    The row is written before the checkpoint: a kill between the two leaves a row too many, which resuming drops, and
    never one too few.
    """

    def __init__(self) -> None:
        self.images_per_second: float | None = None
        self._epoch_start = self._training_seconds = 0.0
        self._before = 0.0  # training seconds of what was trained before `_epoch_start`
        self._resumed: float = 0.0  # seconds of the epoch at hand, before the run was stopped in it

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_start = time.perf_counter() - self._resumed

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
        self._before += self._training_seconds or seconds
        self._epoch_start = time.perf_counter()
        if not trainer.is_global_zero:
            return
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, **told.epoch_metrics}
        times = {"training_seconds": round(self._before, 3), "seconds": round(seconds, 3)}
        run_dir(trainer).add_metrics({**row, **times}, told.metric_names)

    def state_dict(self) -> dict[str, Any]:
        return {"training_seconds": self._before, "epoch_seconds": time.perf_counter() - self._epoch_start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["training_seconds"]
        self._resumed = state_dict.get("epoch_seconds", 0.0)  # an older run's are among the training seconds


def images_per_second(trainer: L.Trainer) -> float | None:
    return next((c.images_per_second for c in trainer.callbacks if isinstance(c, MetricsWriter)), None)  # pyright: ignore[reportAttributeAccessIssue]
