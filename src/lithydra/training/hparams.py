"""A run's settings for its loggers, and its row in TensorBoard's HPARAMS tab."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from lithydra.errors import ConfigError
from lithydra.overrides import split_override, typed
from lithydra.run.config import flatten
from lithydra.run.directory import RunDir
from lithydra.run.provenance import all_overrides

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
    trainer: L.Trainer, config: DictConfig, choices: dict[str, str], run: RunDir, metrics: dict[str, float]
) -> None:
    """One row a run: the choices that are not the usual ones, and the metrics of the best epoch, under their own names.

    `with_best/…` keeps the row apart from the curves of the same metrics, and sorts it behind them. What the command
    line has set gets a column too. A job of a sweep has those that the sweep varies alone: of many, TensorBoard shows
    the first five by name.
    """
    given = dict(map(split_override, all_overrides(run)))
    axes = _axes(run)
    settings: dict[str, Any] = {} if axes else {"lr": config.lr}
    for group in NAMED_GROUPS if not axes else ():
        if group in choices and (group in given or choices[group] != USUAL.get(group, "none")):
            settings[group] = choices[group]
    for key, value in given.items():
        about_results = ("." in key or key == "seed") and key.split(".")[0] not in NOT_ABOUT_RESULTS
        if key in axes if axes else about_results:
            settings[key] = typed(value)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.hparams.update(settings)
            logger.save()
            order = sorted(
                metrics, key=lambda name: (name != config.monitor.metric, not name.startswith("test/"), name)
            )
            _write_row(Path(logger.log_dir), settings, {f"with_best/{name}": metrics[name] for name in order})


def _axes(run: RunDir) -> dict[str, Any]:
    """What varies in the sweep that the run is a job of; empty where it is none."""
    with suppress(ConfigError):  # a damaged sweep.json is told by the sweep
        return run.read_json(run.path.parent / "sweep.json", {"axes": dict}).get("axes", {})
    return {}


def _write_row(directory: Path, settings: dict[str, Any], metrics: dict[str, float]) -> None:
    """A file of its own, which that of a resumed run replaces: of two rows of a run, TensorBoard shows the first."""
    for old in directory.glob(f"*{ROW_SUFFIX}"):
        old.unlink()
    with SummaryWriter(str(directory), filename_suffix=ROW_SUFFIX) as writer:
        for summary in hparams(settings, metrics):
            writer._get_file_writer().add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]
        for name, value in metrics.items():
            writer.add_scalar(name, value, 0)
