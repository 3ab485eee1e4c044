"""Train one model on one data set: what `python train.py` does once its config has been checked."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from lithydra import build, summary
from lithydra.callbacks.record import RunRecord
from lithydra.checkpoint_io import load
from lithydra.classifier import Classifier
from lithydra.data.base import ImageDataModule
from lithydra.provenance import provenance
from lithydra.run_dir import RunDir, write_json

log = logging.getLogger(__name__)


def train(config: DictConfig, choices: dict[str, str], overrides: list[str], directory: Path | None) -> float | None:
    """Train, test on the best epoch, and write it all to the run directory.

    Args:
        config: Composed and checked.
        choices: The option taken in each config group, for names.
        overrides: The command line's, for names and for the record.
        directory: Where to run; None makes `outputs/runs/DATE_TIME_DATA_MODEL`.

    Returns:
        `monitor.metric` at the best epoch: what a sweep optimizes. None if it was never measured.
    """
    started = time.perf_counter()
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    module = build.classifier(config, data)
    build.try_out(config, data, module)

    run = RunDir.make(directory) if directory else RunDir.create(Path(config.paths.runs), run_name(choices))
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    module.record = {"config": plain, "data": data.facts()}
    config.run = str(run.path)  # after the record: a run does not know where it lies, so that it can be moved
    with run.recorded(plain):
        trainer = build.trainer(config, run.path, module)
        speed = {"steps_per_execution": data.steps_per_execution, "strategy": type(trainer.strategy).__name__}
        origin = provenance(config.seed, choices, overrides, {**data.facts(), **data.fingerprint()}, speed)
        write_json(run.provenance, origin)
        trainer.fit(module, datamodule=data)
        tested = test(trainer, module, data, run) if config.test else {}
        metrics = run.finish({**module.epoch_metrics, **tested})
        summary.write_hparams(trainer, config, choices, metrics)
        summary.print_results(run, time.perf_counter() - started, images_per_second(trainer))
    return metrics.get(config.monitor.metric)


def run_name(choices: dict[str, str]) -> str:
    return f"{choices['data']}_{choices['model']}"


def test(trainer: L.Trainer, module: Classifier, data: ImageDataModule, run: RunDir) -> dict[str, float]:
    """The test metrics of the checkpoint that stands for the run."""
    path = run.checkpoint()
    if path != run.best:
        log.info("No validation, so no best epoch: the last weights are tested.")
    module.load_state_dict(load(path)["state_dict"])
    module.epoch_metrics = {}
    trainer.test(module, datamodule=data, verbose=False)
    return module.epoch_metrics


def images_per_second(trainer: L.Trainer) -> float | None:
    return next((c.images_per_second for c in trainer.callbacks if isinstance(c, RunRecord)), None)  # pyright: ignore[reportAttributeAccessIssue]
