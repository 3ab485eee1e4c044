"""Train one model on one data set: what `python train.py` does once its config has been checked."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from lithydra.data.base import ImageDataModule
from lithydra.data.memory import keep_freed_memory
from lithydra.run.checkpoints import load
from lithydra.run.config import frozen, several
from lithydra.run.directory import RunDir, now
from lithydra.run.lifecycle import tracked
from lithydra.run.provenance import all_choices, provenance, threads_of, warn_of_threads
from lithydra.run.table import print_results
from lithydra.training import build, compute, hparams, own_data, own_module
from lithydra.training.checkpoint import kept
from lithydra.training.classifier import Classifier
from lithydra.training.dry_run import try_out
from lithydra.training.ending import ending, pruned
from lithydra.training.interrupts import interruptible
from lithydra.training.metrics_writer import images_per_second
from lithydra.training.precision import settle_precision
from lithydra.training.processes import other_processes
from lithydra.training.start import open_run, owned

log = logging.getLogger(__name__)


def train(config: DictConfig, choices: dict[str, str], overrides: list[str]) -> float | None:
    """Train, test on the best epoch, and write it all to the run directory.

    Args:
        config: Composed and checked. `run` names the directory, null makes `outputs/runs/DATE_TIME_DATA_MODEL`;
            `resume` names one that has the run so far.
        choices: The option taken in each config group, for names.
        overrides: The command line's, for names and for the record.

    Returns:
        `monitor.metric` at the best epoch: what a sweep optimizes. None if it was never measured.
    """
    started = time.perf_counter()
    keep_freed_memory()
    L.seed_everything(config.seed, verbose=False)
    place = build.place(config)
    data = build.data(config)
    module = build.module(config, data)
    if isinstance(module, Classifier) and (seconds := settle_precision(config, data, module, place)):
        module.step_seconds, place = seconds, build.place(config)
    before = threads_of(RunDir(Path(config.resume))) if config.resume else None
    names = try_out(config, data, module, place, before)

    main = place.is_global_zero
    run = open_run(config, choices, main=main)
    config.run = str(run.path)
    told, record = record_for(module, config, data, names)
    job = {"config": OmegaConf.to_container(config, resolve=True), "choices": choices, "overrides": overrides}
    with ExitStack() as stack:
        checkpoint = stack.enter_context(owned(run, config, record, writes=main))
        if main:
            stack.enter_context(tracked(run, record["config"]))
        interrupts = stack.enter_context(interruptible(run))
        trainer, callbacks = build.trainer(config, run.path, data, told, interrupts)
        stack.enter_context(other_processes(trainer, job, interrupts))
        if main:
            choices = all_choices(run, {**several(config), **choices}, overrides)
            facts = {**record["data"], **record["checksums"]}
            how = build.how_it_trains(config, trainer, data, module)
            origin = provenance(config.seed, choices, overrides, facts, how)
            warn_of_threads(run)
            run.add_provenance(origin)
            hparams.log_settings(trainer, record["config"])
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.strategy.barrier()  # until the main process has named the best checkpoint
        metrics, end = kept(trainer).metrics, ending(trainer, config, callbacks)
        if end.stopped and trainer.is_global_zero:
            log.info("Stopped after epoch %d of %d: %s", trainer.current_epoch, config.trainer.max_epochs, end.stopped)
        complete = not pruned(trainer)
        if config.test and complete:
            metrics |= test(trainer, module, data, run)
        if main:
            state = "finished" if complete else "pruned"
            cost = compute.spent(trainer, module, images_per_second(trainer))
            run.update_status(state=state, finished=now(), metrics=metrics, **end.status(), compute=cost)
            hparams.write_hparams(trainer, config, choices, run, metrics)
            if complete:
                on_run_end(trainer, module, data)
            print_results(run, time.perf_counter() - started, images_per_second(trainer))
    return metrics.get(config.monitor.metric)


def record_for(
    module: L.LightningModule, config: DictConfig, data: Any, names: list[str]
) -> tuple[Classifier | own_module.OwnModule, dict[str, Any]]:
    """What tells a run of metrics, which go by `names`; and what its checkpoints say of config and data."""
    record = {"config": frozen(config), "data": own_data.facts(data), "checksums": own_data.fingerprint(data)}
    if isinstance(module, Classifier):
        module.record = record
        return module, record
    record["normalization"] = own_data.constants(data)
    return own_module.OwnModule(record, names, exact=isinstance(data, ImageDataModule)), record


def test(trainer: L.Trainer, module: L.LightningModule, data: Any, run: RunDir) -> dict[str, float]:
    """The test metrics of the checkpoint that stands for the run."""
    keeper = kept(trainer)
    if keeper.best_epoch is None:
        unvalidated = isinstance(data, ImageDataModule) and data.val is None
        why = "No validation" if unvalidated else f"{keeper.monitor} was not measured"
        log.info("%s, so no best epoch: the last weights are tested.", why)
    path = run.last if keeper.best_epoch is None else run.best
    if not isinstance(module, Classifier):
        return own_module.test(trainer, module, data, load(path)["state_dict"])
    module.load_state_dict(module.state_of(load(path)))
    module.epoch_metrics = {}
    trainer.test(module, datamodule=data, verbose=False)
    return module.epoch_metrics


def on_run_end(trainer: L.Trainer, module: L.LightningModule, data: Any) -> None:
    """Call the hook of this name of each callback that has one: the results are written."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(callback, "on_run_end"):
            callback.on_run_end(trainer, module, data)
