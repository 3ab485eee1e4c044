"""SIGTERM, SIGINT and SIGUSR1 end a run after the step at hand, with all of it saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from lithydra.errors import RunInterrupted
from lithydra.run.directory import RunDir
from lithydra.run.signals import EXIT_CODES
from lithydra.run.trust import needed_trust
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.lightning_inside import handle_no_signals
from lithydra.training.position import is_repeatable, within_epoch


class Interrupts:
    """What the signal handlers know: in training they leave a note for the next step, elsewhere they stop at once."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.received: signal.Signals | None = None  # by this process
        self.training = False
        self.ending = False  # an exception is on its way out of the trainer

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)  # a second signal of the kind ends the process at once
        if not self.training:
            self.stop(self.received)

    def stop(self, number: signal.Signals, saved: str = "saved") -> None:
        raise self.stopped_by(number, saved)

    def stopped_by(self, number: signal.Signals, saved: str = "saved") -> RunInterrupted:
        saved = saved if self.run.last.exists() else "nothing to save yet"
        command = " ".join(["python train.py", f"resume={self.run.path}", *needed_trust(self.run.read_config())])
        return RunInterrupted(f"Stopped by {number.name}, {saved}. Go on with: {command}", EXIT_CODES[number])


@contextmanager
def interruptible(run: RunDir) -> Iterator[Interrupts]:
    """Handle the signals for as long as a run goes on."""
    interrupts = Interrupts(run)
    before = {number: signal.signal(number, interrupts.handle) for number in EXIT_CODES}
    try:
        yield interrupts
        if interrupts.received is not None:  # and has come to nobody, or was taken for an error of somebody's own
            interrupts.stop(interrupts.received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(Checkpoint):  # a Checkpoint, so that it runs after the epoch was saved
    """Stops training at the next optimizer step, or after the validation at hand.

    A person's own loader cannot go on within an epoch: what was trained of it is trained anew.

    Several processes must stop, and save, at the same step. After each execution they agree on whether a signal came to
    any of them, and on whether `checkpoint.every_seconds` have gone by on the main one's clock.
    """

    def __init__(self, interrupts: Interrupts, keeper: RunCheckpoint) -> None:
        self.interrupts, self.keeper = interrupts, keeper
        self.several = False
        self._agreed: signal.Signals | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        handle_no_signals(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.several = self.keeper.several = trainer.world_size > 1
        self.interrupts.training = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.several:
            self._agree(trainer)

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        number = self._agreed if self.several else self.interrupts.received
        if number is None:
            return
        if within_epoch(trainer):  # else the epoch's end saves and stops
            self.keeper.save_within_epoch(trainer)
            self.interrupts.stop(number)
        if not is_repeatable(trainer) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self.interrupts.stop(number, f"saved at the end of epoch {self.keeper.epoch}, which it goes on from")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.several:
            self._agree(trainer)
        number = self._agreed if self.several else self.interrupts.received
        if number is not None:
            self.interrupts.stop(number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupts.training = False
        if self.interrupts.received is not None:  # after the last epoch's end
            self.interrupts.stop(self.interrupts.received)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.interrupts.ending = True

    def _agree(self, trainer: L.Trainer) -> None:
        """On the signal to obey, if one came to any process, and on whether a save is overdue in the main one."""
        overdue = trainer.is_global_zero and self.keeper.overdue()
        mine = torch.tensor([self.interrupts.received or 0, overdue], device=trainer.strategy.root_device)
        number, overdue = trainer.strategy.reduce(mine, reduce_op="max").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        self._agreed = signal.Signals(number) if number else None
        self.keeper.agreed_overdue = bool(overdue)
