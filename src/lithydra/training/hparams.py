"""A run's settings for its loggers, and its row in TensorBoard's HPARAMS tab."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lithydra.overrides import split_override, typed
from lithydra.run.config import flatten

# Groups whose choice says something about a result.
NAMED_GROUPS = (
    *("data", "normalization", "augmentation", "module", "model", "loss", "method"),
    *("optimizer", "optimizer_groups", "scheduler", "regularizer", "average"),
)

# Of these, the choices that conf/train.yaml makes: they get no column, since TensorBoard shows the first five by name.
USUAL = {"normalization": "min_max", "loss": "cross_entropy", "method": "supervised"}

# Groups whose settings say nothing about it.
NOT_ABOUT_RESULTS = ("hydra", "sweep", "paths", "callbacks", "logger", "checkpoint")

ROW_SUFFIX = ".hparams"  # of the file with a run's row in the HPARAMS tab


def log_settings(trainer: L.Trainer, settings: dict[str, Any]) -> None:
    """Give the run's settings to every logger but TensorBoard's, which has its row when the run ends."""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(flatten(settings)))


def write_hparams(
    trainer: L.Trainer, config: DictConfig, choices: dict[str, str], overrides: list[str], metrics: dict[str, float]
) -> None:
    """One row a run: the choices that are not the usual ones, and the metrics of the best epoch, under their own names.

    `with_best/…` keeps the row apart from the curves of the same metrics, and sorts it behind them. What the command
    line or a sweep has set gets a column too, so that the tab shows what a sweep varies.
    """
    given = dict(map(split_override, overrides))
    settings: dict[str, Any] = {"lr": config.lr}
    for group in NAMED_GROUPS:
        if group in choices and (group in given or choices[group] != USUAL.get(group, "none")):
            settings[group] = choices[group]
    for key, value in given.items():
        if ("." in key or key == "seed") and key.split(".")[0] not in NOT_ABOUT_RESULTS:
            settings[key] = typed(value)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.hparams.update(settings)
            logger.save()
            order = sorted(
                metrics, key=lambda name: (name != config.monitor.metric, not name.startswith("test/"), name)
            )
            _write_row(Path(logger.log_dir), settings, {f"with_best/{name}": metrics[name] for name in order})


def _write_row(directory: Path, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """A file of its own, which that of a resumed run replaces: of two rows of a run, TensorBoard shows the first."""
    for old in directory.glob(f"*{ROW_SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(directory), filename_suffix=ROW_SUFFIX) as writer:
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]
        for name, value in metrics.items():
            writer.add_scalar(name, value, 0)
