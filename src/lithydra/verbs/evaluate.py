"""Evaluate a run's checkpoint on a split of its data set, or of another one of the same form."""

from pathlib import Path

import lightning as L
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lithydra.data.loaders import EvaluationLoader
from lithydra.errors import ConfigError, nearest
from lithydra.run.directory import RunDir
from lithydra.run.metric_names import names_of, words
from lithydra.run.table import how
from lithydra.training import build
from lithydra.training.loading import load, load_data

SPLITS = ("test", "val", "train")


def evaluate(config: DictConfig) -> dict[str, float]:
    """Loss and accuracy, as `{"test/loss": …, "test/acc": …}`; prints them.

    Raises:
        ConfigError: No such run or split, or data that the checkpoint was not made for.
    """
    if config.split not in SPLITS:
        raise ConfigError(f"split={config.split}: one of {', '.join(SPLITS)}.{nearest(config.split, SPLITS)}")
    run = RunDir.open(Path(config.run))
    file = run.named_checkpoint(config.checkpoint)
    module = load(file, trust=config.trust, weights=config.weights, tta=config.tta)
    data = load_data(module, config.paths.data, config.get("data"), config.seed)
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
    names = names_of(metrics)
    table = Table(
        "split",
        "images",
        *map(words, names),
        title=f"Run {run.path.name}, {file.name}{how(module.record['config'], config.weights, config.tta)}",
    )
    table.add_row(config.split, f"{len(split):,}", *(f"{metrics[f'{config.split}/{name}']:.4f}" for name in names))
    Console(highlight=False).print(table)
    return metrics
