"""Keeps last.ckpt, previous.ckpt and best.ckpt of a run."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.files import set_aside
from lithydra.run.checkpoints import DamagedCheckpoint, link, load
from lithydra.run.directory import RunDir
from lithydra.training.position import within_epoch
from lithydra.training.teller import teller

log = logging.getLogger(__name__)

# What a checkpoint holds of this callback, by the names of its attributes.
STATE = ("epoch", "step", "last_metrics", "best_epoch", "best_metrics", "_saved_epoch")


class RunCheckpoint(Checkpoint):
    """Saves after every epoch, and within it every `every_n_steps` optimizer steps or `every_seconds`.

    best.ckpt is the epoch with the best `monitor`; of equals the later, since a small
    validation part ties often and the later has seen more; NaN is never best. Where `monitor`
    is never measured, there is no best.ckpt: the last weights stand for the run.
    """

    def __init__(
        self, monitor: str, mode: str, every_n_steps: int | None = None, every_seconds: float | None = None
    ) -> None:
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.every_n_steps, self.every_seconds = every_n_steps, every_seconds
        self.epoch = self.step = 0  # where the last finished epoch ended
        self.last_metrics: dict[str, float] = {}  # of that epoch
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._saved_epoch: int | None = None  # the epoch whose end last.ckpt holds, if it holds one's end
        self.saved_step: int | None = None  # of last.ckpt
        self._last_save = time.monotonic()
        self.several = False  # processes: then `overdue` is the main one's, as of the last time that they agreed
        self.agreed_overdue = False

    @property
    def best_score(self) -> float | None:
        return self.best_metrics.get(self.monitor)

    @property
    def metrics(self) -> dict[str, float]:
        """What stands for the run: the metrics of the best epoch, or of the last where none is best."""
        return {name: value for name, value in (self.best_metrics or self.last_metrics).items() if name != "lr"}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.broadcast(trainer.is_global_zero and self._has_lost_best(run_dir(trainer))):
            self.best_epoch, self.best_metrics = None, {}
        if self.epoch and trainer.is_global_zero:
            self._publish(run_dir(trainer))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_step = trainer.global_step or None  # where the checkpoint stood that the run is resumed from

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epoch, self.step = trainer.current_epoch + 1, trainer.global_step
        self.last_metrics = dict(teller(trainer).epoch_metrics)
        score = self.last_metrics.get(self.monitor)
        if score is not None and self._improves(score):
            self.best_epoch, self.best_metrics = self.epoch, self.last_metrics
        self._saved_epoch = self.epoch
        self._save(trainer)
        if trainer.is_global_zero:
            self._publish(run_dir(trainer))

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        overdue = self.agreed_overdue if self.several else self.overdue()
        if (due or overdue) and within_epoch(trainer):  # the epoch's end is saved with its metrics
            self.save_within_epoch(trainer)

    def overdue(self) -> bool:
        return self.every_seconds is not None and time.monotonic() - self._last_save >= self.every_seconds

    def save_within_epoch(self, trainer: L.Trainer) -> None:
        self._saved_epoch = None
        self._save(trainer)

    def _improves(self, score: float) -> bool:
        return math.isfinite(score) and (self.best_score is None or self.sign * score >= self.sign * self.best_score)

    def _save(self, trainer: L.Trainer) -> None:
        run = run_dir(trainer)
        trainer.save_checkpoint(run.last, storage_options={"previous": run.previous})
        self._last_save, self.agreed_overdue = time.monotonic(), False
        self.saved_step = trainer.global_step

    def _publish(self, run: RunDir) -> None:
        """Name the best epoch and its checkpoint, which a killed process may have saved without naming it."""
        if self.best_epoch is not None and self.best_epoch == self._saved_epoch:
            link(run.last, run.best)
        best = run.relative(run.best) if self.best_epoch is not None else None
        run.update_status(
            epoch=self.epoch, step=self.step, best_epoch=self.best_epoch, best_checkpoint=best, metrics=self.metrics
        )

    def _has_lost_best(self, run: RunDir) -> bool:
        """Whether best.ckpt is not that of the best epoch; such a file is set aside, and said."""
        if self.best_epoch is None or self.best_epoch == self._saved_epoch:
            return False
        try:
            if run.best.exists() and load(run.best)["record"]["progress"]["epochs"] == self.best_epoch:
                return False
        except DamagedCheckpoint:
            pass
        log.warning(
            "%s does not hold epoch %d, the best one: the best of the epochs from here on will stand for the run",
            run.best,
            self.best_epoch,
        )
        if run.best.exists():
            set_aside(run.best, "not the best checkpoint")
        return True

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            if name in state_dict:  # an older run's has fewer
                setattr(self, name, state_dict[name])


def kept(trainer: L.Trainer) -> RunCheckpoint:
    return next(c for c in trainer.callbacks if isinstance(c, RunCheckpoint))  # pyright: ignore[reportAttributeAccessIssue]


def run_dir(trainer: L.Trainer) -> RunDir:
    return RunDir(Path(trainer.default_root_dir))
