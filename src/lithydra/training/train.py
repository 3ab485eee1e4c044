"""Train one model on one data set: what `python train.py` does once its config has been checked."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from lithydra.callbacks.look_inside import look_inside
from lithydra.data.base import ImageDataModule
from lithydra.data.memory import keep_freed_memory
from lithydra.errors import ConfigError
from lithydra.run.checkpoints import load
from lithydra.run.config import frozen
from lithydra.run.directory import RunDir, now
from lithydra.run.lifecycle import logged, new_run, new_run_at, own, refuse_second_run, tracked
from lithydra.run.provenance import all_choices, all_overrides, provenance, warn_of_threads
from lithydra.training import build, summary
from lithydra.training.checkpoint import kept
from lithydra.training.classifier import Classifier
from lithydra.training.continuation import continue_from
from lithydra.training.ending import ending
from lithydra.training.interrupts import interruptible
from lithydra.training.processes import other_processes
from lithydra.training.record import RunRecord
from lithydra.training.repair import repair

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
    module = build.classifier(config, data)
    build.try_out(config, data, module, place)

    main = place.is_global_zero
    run = open_run(config, choices, main=main)
    module.record = {"config": frozen(config), "data": data.facts(), "checksums": data.fingerprint()}
    config.run = str(run.path)
    job = {"config": OmegaConf.to_container(config, resolve=True), "choices": choices, "overrides": overrides}
    with ExitStack() as stack:
        start = stack.enter_context(owned(run, config, module.record, writes=main))
        if main:
            stack.enter_context(tracked(run, module.record["config"]))
        interrupts = stack.enter_context(interruptible(run))
        trainer = build.trainer(config, run.path, data, module, interrupts)
        stack.enter_context(other_processes(trainer, job, interrupts))
        if main:
            choices = all_choices(run, choices, overrides)
            facts = {**data.facts(), **data.fingerprint()}
            origin = provenance(config.seed, choices, overrides, facts, how_it_trains(config, trainer, data))
            warn_of_threads(run)
            run.add_provenance(origin)
            summary.log_settings(trainer, module.record["config"])
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        trainer.strategy.barrier()  # until the main process has named the best checkpoint
        metrics, end = kept(trainer).metrics, ending(trainer, config)
        if end.stopped and trainer.is_global_zero:
            log.info("Stopped after epoch %d of %d: %s", trainer.current_epoch, config.trainer.max_epochs, end.stopped)
        pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]
        if config.test and not pruned:
            metrics |= test(trainer, module, data, run)
        if main:
            state = "pruned" if pruned else "finished"
            run.update_status(state=state, finished=now(), metrics=metrics, **end.status())
            summary.write_hparams(trainer, config, choices, all_overrides(run), metrics)
            if not pruned:
                look_inside(trainer, module, data)
            summary.print_results(run, time.perf_counter() - started, images_per_second(trainer))
    return metrics.get(config.monitor.metric)


@contextmanager
def owned(run: RunDir, config: DictConfig, record: dict[str, Any], *, writes: bool) -> Iterator[Path | None]:
    """Own the run directory; gives the checkpoint to start from. What is refused here has changed nothing."""
    with own(run) if writes else nullcontext(), logged(run) if writes else nullcontext():
        if config.resume:
            if writes:
                repair(run)
            yield continue_from(run, config, record, writes=writes)
        else:
            if writes:
                refuse_second_run(run)  # one that has come and gone since the directory was opened
            yield None


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


def open_run(config: DictConfig, choices: dict[str, str], *, main: bool) -> RunDir:
    """The directory to train in: an old one with `resume`, else a new one; of several processes, the main one's."""
    if config.resume:
        return RunDir.open(Path(config.resume), "resume")
    if not main:
        if config.run is None:
            raise ConfigError("run=null: processes on several machines need a directory that all of them see: run=DIR")
        return RunDir(Path(config.run))
    if config.run:
        return new_run_at(Path(config.run))
    return new_run(Path(config.paths.runs), f"{choices['data']}_{choices['model']}")


def test(trainer: L.Trainer, module: Classifier, data: ImageDataModule, run: RunDir) -> dict[str, float]:
    """The test metrics of the checkpoint that stands for the run."""
    keeper = kept(trainer)
    if keeper.best_epoch is None:
        why = "No validation" if data.val is None else f"{keeper.monitor} was not measured"
        log.info("%s, so no best epoch: the last weights are tested.", why)
    path = run.last if keeper.best_epoch is None else run.best
    module.load_state_dict(load(path)["state_dict"])
    module.epoch_metrics = {}
    trainer.test(module, datamodule=data, verbose=False)
    return module.epoch_metrics


def images_per_second(trainer: L.Trainer) -> float | None:
    return next((c.images_per_second for c in trainer.callbacks if isinstance(c, RunRecord)), None)  # pyright: ignore[reportAttributeAccessIssue]
