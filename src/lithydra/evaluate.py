"""Evaluate a run's checkpoint on a split of its data set, or of another one of the same form."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lithydra import build
from lithydra.data.loaders import EvaluationLoader
from lithydra.errors import ConfigError, nearest
from lithydra.loading import load

log = logging.getLogger(__name__)

SPLITS = ("test", "val", "train")


def evaluate(config: DictConfig) -> dict[str, float]:
    """Loss and accuracy, as `{"test/loss": …, "test/acc": …}`; prints them.

    Raises:
        ConfigError: No such run or split, or data that the checkpoint was not made for.
    """
    if config.split not in SPLITS:
        raise ConfigError(f"split={config.split}: one of {', '.join(SPLITS)}.{nearest(config.split, SPLITS)}")
    module = load(config.run, config.checkpoint)
    data_config = DictConfig(module.record["config"])
    if config.get("data") is not None:
        data_config.data = config.data
    elif "dir" in data_config.data:
        data_config.data.dir = config.paths.data
    data_config.data.batch_size = 1  # nothing is trained, so a small data set is no reason to refuse
    data = build.data(data_config)
    refuse_mismatch(module.record["data"], data.facts())
    _warn_of_changes(module.record.get("checksums", {}), data.fingerprint())
    split = getattr(data, config.split)
    if split is None:
        raise ConfigError("split=val: the run had no validation part (data.val_fraction=0)")
    module.test_metrics.split = config.split
    trainer = L.Trainer(
        accelerator=build.device(config).type,
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=module.record["config"]["trainer"]["precision"],
    )
    trainer.test(module, dataloaders=EvaluationLoader(split, data.eval_batch_size), verbose=False)
    metrics = module.epoch_metrics
    table = Table("split", "images", "loss", "accuracy", title=f"Run {Path(config.run).name}, {config.checkpoint}")
    loss, accuracy = metrics[f"{config.split}/loss"], metrics[f"{config.split}/acc"]
    table.add_row(config.split, f"{len(split):,}", f"{loss:.4f}", f"{accuracy:.4f}")
    Console(highlight=False).print(table)
    return metrics


def _warn_of_changes(trained: dict[str, str], given: dict[str, str]) -> None:
    if changed := sorted(key for key in trained if trained[key] != given.get(key)):
        log.warning("The data are not those that the run was trained on: %s differ", ", ".join(changed))


def refuse_mismatch(trained: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse data of another set, other classes or another image shape than the checkpoint's."""
    for key, what in (("name", "data set"), ("class_names", "classes"), ("image_shape", "image shape")):
        if trained[key] != given[key]:
            raise ConfigError(f"data: the checkpoint was trained on {what} {trained[key]}, and these are {given[key]}")
