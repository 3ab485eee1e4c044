"""Keeps last.ckpt, previous.ckpt and best.ckpt of a run."""

import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.checkpoint_io import link
from lithydra.classifier import Classifier
from lithydra.run_dir import RunDir


class RunCheckpoint(Checkpoint):
    """Saves after every epoch, and within it every `every_n_steps` optimizer steps or `every_seconds`.

    best.ckpt is the epoch with the best `monitor`; of equals the later, since a small
    validation part ties often and the later has seen more; NaN is never best. Without
    validation there is no best.ckpt: the last weights stand for the run.
    """

    def __init__(
        self, monitor: str, mode: str, every_n_steps: int | None = None, every_seconds: float | None = None
    ) -> None:
        self.monitor, self.sign = monitor, 1 if mode == "max" else -1
        self.every_n_steps, self.every_seconds = every_n_steps, every_seconds
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._saved_epoch: int | None = None  # the epoch whose end last.ckpt holds, if it holds one's end
        self._last_save = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Where a run was killed between saving its best epoch and naming it so.
        if self.best_epoch is not None and self.best_epoch == self._saved_epoch:
            self._publish_best(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch, metrics = trainer.current_epoch + 1, pl_module.epoch_metrics
        score = metrics.get(self.monitor)
        if self.monitor.startswith("val/") and score is not None and self._improves(score):
            self.best_score, self.best_epoch, self.best_metrics = score, epoch, dict(metrics)
        self._saved_epoch = epoch
        self._save(trainer)
        if self.best_epoch == epoch:
            self._publish_best(trainer)
        if trainer.is_global_zero:
            run_dir(trainer).update_status(epoch=epoch, step=trainer.global_step)

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0
        if not due and self.every_seconds is not None:
            due = time.monotonic() - self._last_save >= self.every_seconds
        if due:
            order = trainer.train_dataloader.sampler  # pyright: ignore[reportOptionalMemberAccess]
            if order.position < order.num_batches:  # the epoch's end is saved with its metrics
                self.save_within_epoch(trainer)

    def save_within_epoch(self, trainer: L.Trainer) -> None:
        self._saved_epoch = None
        self._save(trainer)

    def _improves(self, score: float) -> bool:
        return math.isfinite(score) and (self.best_score is None or self.sign * score >= self.sign * self.best_score)

    def _save(self, trainer: L.Trainer) -> None:
        run = run_dir(trainer)
        trainer.save_checkpoint(run.last, storage_options={"previous": run.previous})
        self._last_save = time.monotonic()

    def _publish_best(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            run = run_dir(trainer)
            link(run.last, run.best)
            metrics = {name: value for name, value in self.best_metrics.items() if "/" in name}
            run.update_status(best_epoch=self.best_epoch, best_checkpoint=run.relative(run.best), metrics=metrics)

    def state_dict(self) -> dict[str, Any]:
        names = ("best_score", "best_epoch", "best_metrics", "_saved_epoch")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)


def run_dir(trainer: L.Trainer) -> RunDir:
    return RunDir(Path(trainer.default_root_dir))
