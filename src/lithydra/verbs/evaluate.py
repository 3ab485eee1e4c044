"""Evaluate a run's checkpoint on a split of its data set, or of another one of the same form."""

from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import EvaluationLoader
from lithydra.errors import ConfigError, nearest
from lithydra.run.directory import RunDir
from lithydra.run.metric_names import by_split, words
from lithydra.run.table import how
from lithydra.training.classifier import Classifier
from lithydra.training.loading import load_data, load_with_record
from lithydra.training.own_runs import evaluate_own
from lithydra.verbs.device import device

SPLITS = ("test", "val", "train")


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Print loss and accuracy.

    Returns:
        The run, the checkpoint's file, the number of `images`, and `metrics` as `{"test/loss": …, "test/acc": …}`.

    Raises:
        ConfigError: No such run or split, or data that the checkpoint was not made for.
    """
    if config.split not in SPLITS:
        raise ConfigError(f"split={config.split}: one of {', '.join(SPLITS)}.{nearest(config.split, SPLITS)}")
    run = RunDir.open(Path(config.run))
    file = run.named_checkpoint(config.checkpoint)
    how_loaded = {"trust": config.trust, "weights": config.weights, "tta": config.tta}
    module, record = load_with_record(file, **how_loaded, to_evaluate=True)
    data = load_data(record, config.paths.data, config.get("data"), config.seed)
    if isinstance(data, ImageDataModule) and getattr(data, config.split) is None:
        raise ConfigError("split=val: the run had no validation part (data.val_fraction=0)")
    trainer = L.Trainer(
        accelerator=device(config).type,
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=record["config"]["trainer"]["precision"],
    )
    if isinstance(module, Classifier):
        metrics, count = _of_classifier(trainer, module, data, config.split)
    else:
        metrics, count = evaluate_own(trainer, module, record, data, config.split)
    values = by_split(metrics)[config.split]
    title = f"Run {run.path.name}, {file.name}{how(record['config'], config.weights, config.tta)}"
    table = Table("split", "images", *map(words, values), title=title)
    images = "" if count is None else f"{count:,}"
    table.add_row(config.split, images, *(f"{value:.4f}" for value in values.values()))
    for column in table.columns[1:]:
        column.justify = "right"
    Console(highlight=False, soft_wrap=True, markup=False).print(table)
    return {"run": run.path, "checkpoint": file.name, "images": count, "metrics": metrics}


def _of_classifier(
    trainer: L.Trainer, module: Classifier, data: ImageDataModule, name: str
) -> tuple[dict[str, float], int]:
    split = getattr(data, name)
    module.test_metrics.split = name
    trainer.test(module, dataloaders=EvaluationLoader(split, data.eval_batch_size), verbose=False)
    return module.epoch_metrics, len(split)
