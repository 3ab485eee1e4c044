"""Callbacks that measure a run from the inside: `train.py +callbacks.clock._target_=speed.clock.EpochClock`."""

import atexit
import time
from typing import Any

import lightning as L
import torch

from .result import write_result


class EpochClock(L.Callback):
    """Seconds from the start of an epoch to the start of the next: validation, checkpoints and all that lies between.

    The result is written when the process ends, so that it names every module that the run imported.
    """

    def __init__(self) -> None:
        self._marks: list[float] = []
        atexit.register(self.write)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(pl_module.device)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark(pl_module.device)

    def _mark(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        self._marks.append(time.perf_counter())

    def write(self, **values: Any) -> None:
        atexit.unregister(self.write)
        seconds = [end - start for start, end in zip(self._marks, self._marks[1:], strict=False)]
        write_result(epoch_seconds=seconds, **values)


class FirstStepClock(L.Callback):
    """The time of day at the end of the first optimizer step, in seconds since the epoch."""

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        write_result(first_step=time.time())
