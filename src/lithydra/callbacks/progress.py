"""What a person sees while a run trains."""

import sys
import textwrap
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lithydra.run.metric_names import by_split
from lithydra.training.position import trained_batches
from lithydra.training.teller import teller


class EpochProgress(Checkpoint):  # a Checkpoint, so that it runs when the epoch's metrics are known
    """A bar for the epoch at hand, in a terminal or a notebook, and a line for each finished one, everywhere.

    The bar is redrawn by time, not by batch, so that its cost does not grow with the number of batches.
    """

    def __init__(self, refresh_seconds: float = 0.2) -> None:
        self.refresh_seconds = refresh_seconds
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._in_notebook: Any = None  # IPython's handle of the bar that is shown there
        self._task = TaskID(0)
        self._next_refresh = self._epoch_start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_start = time.perf_counter()
        console = self._console
        if not ((console.is_terminal or console.is_jupyter) and trainer.is_global_zero):
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,  # no thread beside the training threads
        )
        self._task = self._bar.add_task("", total=None)
        if console.is_jupyter:
            from IPython.display import display

            self._in_notebook = display(self._bar, display_id=True)
        else:
            self._bar.start()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_start = time.perf_counter()

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._bar is None or (now := time.monotonic()) < self._next_refresh:
            return
        self._next_refresh = now + self.refresh_seconds
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self._bar.update(
            self._task,
            description=f"epoch {trainer.current_epoch + 1}",
            completed=trained_batches(trainer),
            total=getattr(data, "num_training_batches", trainer.num_training_batches),
        )
        if self._in_notebook is not None:
            self._in_notebook.update(self._bar)
        else:
            self._bar.refresh()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics = teller(trainer).epoch_metrics
        parts = [f"epoch {trainer.current_epoch + 1:>3}"]
        for split, values in by_split(metrics).items():
            shown = [f"{name} {value:.4f}" for name, value in values.items() if name != "lr"]
            parts += [" ".join([split, *shown]).strip()] if shown else []
        parts.append(f"{time.perf_counter() - self._epoch_start:.1f} s")
        width = self._console.width if self._console.is_terminal else None
        self._console.print(_line(parts, width))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._in_notebook is not None:
            self._in_notebook.update({"text/plain": ""}, raw=True)
            self._in_notebook = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _line(parts: list[str], width: int | None) -> str:
    """The parts in one line; if that were longer than `width` characters, in several that do not divide a part."""
    line = "  ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)
    if width is not None:
        line = textwrap.fill(line, width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)
    return line.replace("\N{NO-BREAK SPACE}", " ")
