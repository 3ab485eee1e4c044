"""SIGTERM, SIGINT and SIGUSR1 end a run after the step at hand, with all of it saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.callbacks.checkpoint import RunCheckpoint
from lithydra.errors import RunInterrupted
from lithydra.run_dir import RunDir
from lithydra.signals import EXIT_CODES


class Interrupts:
    """What the signal handlers know: in training they leave a note for the next step, elsewhere they stop at once."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.received: signal.Signals | None = None
        self.training = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)  # a second signal of the kind ends the process at once
        if not self.training:
            self.stop()

    def stop(self) -> None:
        assert self.received is not None
        saved = "saved" if self.run.last.exists() else "nothing to save yet"
        message = f"Stopped by {self.received.name}, {saved}. Go on with: python train.py resume={self.run.path}"
        raise RunInterrupted(message, EXIT_CODES[self.received])


@contextmanager
def interruptible(run: RunDir) -> Iterator[Interrupts]:
    """Handle the signals for as long as a run goes on."""
    interrupts = Interrupts(run)
    before = {number: signal.signal(number, interrupts.handle) for number in EXIT_CODES}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(Checkpoint):  # a Checkpoint, so that it runs after the epoch was saved
    """Stops training at the next optimizer step, or after the validation at hand."""

    def __init__(self, interrupts: Interrupts, keeper: RunCheckpoint) -> None:
        self.interrupts, self.keeper = interrupts, keeper

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupts.training = True

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.interrupts.received:
            return
        order = trainer.train_dataloader.sampler  # pyright: ignore[reportOptionalMemberAccess]
        if order.position < order.num_batches:  # else the epoch's end saves and stops
            self.keeper.save_within_epoch(trainer)
            self.interrupts.stop()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.interrupts.received:
            self.interrupts.stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupts.training = False
