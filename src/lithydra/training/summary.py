"""What a run says of itself: how it trains, a table in the terminal, and a row in TensorBoard's HPARAMS tab."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lithydra.data.base import ImageDataModule
from lithydra.overrides import split_override, typed
from lithydra.run.config import flatten
from lithydra.run.directory import PROFILE, RunDir
from lithydra.run.page import commands

# Groups whose choice says something about a result.
NAMED_GROUPS = ("data", "normalization", "augmentation", "model", "loss", "optimizer", "scheduler", "regularizer")

# Groups whose settings say nothing about it.
NOT_ABOUT_RESULTS = ("hydra", "sweep", "paths", "callbacks", "logger", "checkpoint")

PROFILE_LINES = 16  # of each file of a profiler that are printed
ROW_SUFFIX = ".hparams"  # of the file with a run's row in the HPARAMS tab


def print_results(run: RunDir, seconds: float, images_per_second: float | None) -> None:
    """The run's metrics by split, and the commands that a person may want next."""
    status = run.read_status()
    metrics: dict[str, float] = status["metrics"]
    table = Table("split", "loss", "accuracy", title=f"Run {run.path.name}")
    for split in ("train", "val", "test"):
        if f"{split}/loss" in metrics:
            table.add_row(split, f"{metrics[f'{split}/loss']:.4f}", f"{metrics[f'{split}/acc']:.4f}")
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(table)
    if "best_epoch" in status:
        which = f"best epoch {status['best_epoch']} of {status['epoch']}"
    else:
        which = f"last of {status['epoch']} epochs ({'not one is best' if 'val/loss' in metrics else 'no validation'})"
    speed = f", {images_per_second:,.0f} images/s in training" if images_per_second else ""
    console.print(f"{which}, {seconds:.1f} s in all{speed}")
    console.print(f"run directory  {run.path}")
    if run.page.exists():
        console.print(f"pictures       {run.page}")
    for name, command in commands(run, status).items():
        console.print(f"{name:<15}{command}")
    for profile in sorted(run.path.glob(f"*-{PROFILE}*.txt")):
        console.print(f"\n{profile}, its first lines:", *profile.read_text().splitlines()[:PROFILE_LINES], sep="\n")


def how_it_trains(config: DictConfig, trainer: L.Trainer, data: ImageDataModule) -> dict[str, Any]:
    """What decides speed and rounding, as it came out of `auto`."""
    return {
        "device": str(trainer.strategy.root_device),
        "strategy": type(trainer.strategy).__name__,
        "num_processes": trainer.world_size,
        "precision": trainer.precision,
        "matmul_precision": config.accelerator.matmul_precision,
        "channels_last": data.layout.channels_last,
        "compile": config.compile,
        "steps_per_execution": data.steps_per_execution,
    }


def log_settings(trainer: L.Trainer, settings: dict[str, Any]) -> None:
    """Give the run's settings to every logger but TensorBoard's, which has its row when the run ends."""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(flatten(settings)))


def write_hparams(
    trainer: L.Trainer, config: DictConfig, choices: dict[str, str], overrides: list[str], metrics: dict[str, float]
) -> None:
    """One row a run: the choices that were made and the metrics of the best epoch, under names of their own.

    `final/…` keeps the row apart from the curves of the same metrics. What the command line or a sweep has set gets a
    column too, so that the tab shows what a sweep varies.
    """
    settings: dict[str, Any] = {group: choices[group] for group in NAMED_GROUPS if group in choices}
    settings |= {"lr": config.lr, "seed": config.seed, "batch_size": config.data.batch_size}
    for key, value in map(split_override, overrides):
        if "." in key and key.split(".")[0] not in NOT_ABOUT_RESULTS and key != "data.batch_size":
            settings[key] = typed(value)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.hparams.update(settings)
            logger.save()
            _write_row(Path(logger.log_dir), settings, {f"final/{name}": value for name, value in metrics.items()})


def _write_row(directory: Path, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """A file of its own, which that of a resumed run replaces: of two rows of a run, TensorBoard shows the first."""
    for old in directory.glob(f"*{ROW_SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(directory), filename_suffix=ROW_SUFFIX) as writer:
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]
        for name, value in metrics.items():
            writer.add_scalar(name, value, 0)
