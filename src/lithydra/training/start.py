"""Where a run starts: its directory, and of a resumed one the newest good checkpoint, with files of that moment."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.run.lifecycle import logged, new_run, new_run_at, refuse_second_run
from lithydra.run.locks import own
from lithydra.training.repair import newest, repair
from lithydra.training.resuming import refuse_changes, refuse_finished, refuse_shorter

log = logging.getLogger(__name__)

# What the data must have in common when a run is resumed.
SAME_DATA = {
    "name": "data set",
    "class_names": "classes",
    "image_shape": "image shape",
    "num_train": "number of training images",
    "num_val": "number of validation images",
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


@contextmanager
def owned(run: RunDir, config: DictConfig, record: dict[str, Any], *, writes: bool) -> Iterator[Path | None]:
    """Own the run directory; gives the checkpoint to start from. What is refused here has changed nothing."""
    with own(run) if writes else nullcontext(), logged(run) if writes else nullcontext():
        if config.resume:
            if writes:
                repair(run)
            yield resume_from(run, config, record, writes=writes)
        else:
            if writes:
                refuse_second_run(run)  # one that has come and gone since the directory was opened
            yield None


def resume_from(run: RunDir, config: DictConfig, record: dict[str, Any], *, writes: bool) -> Path | None:
    """The checkpoint to resume from, or None to start at the beginning; what the run wrote after it is dropped.

    Args:
        config: Of the resumed run; its loggers get the step that they resume at.
        record: What this process would write to a checkpoint: its config and its data.
        writes: Whether this process is the one that writes to the run directory.

    Raises:
        DamagedCheckpoint: There are checkpoints, and none is whole.
        ConfigError: The checkpoint is of other data, or of another config; or nothing is left to train.
    """
    found = newest(run, writes=writes)
    if found is None:
        log.info("There is no checkpoint yet: starting at the beginning")
        if writes:
            run.keep_metrics(0)
        return None
    path, written = found
    refuse_other_data(run, written, record)
    refuse_changes(run, written["config"], record["config"], written["config"], anyway=config.resume_anyway)
    refuse_finished(run, written["config"], config)  # by another process, since the config was checked
    progress = written["progress"]
    refuse_shorter(config, progress["epochs"] + (progress["batches"] > 0), progress["steps"])
    log.info("Going on after epoch %d, step %d (%s)", progress["epochs"], progress["steps"], path.name)
    _continue_logs(config, run, progress["steps"])
    if writes:
        run.keep_metrics(progress["epochs"])
    return path


def refuse_other_data(run: RunDir, written: dict[str, Any], record: dict[str, Any]) -> None:
    """Raise ConfigError where the images are not those that the run was trained on."""
    before, now = written["data"], record["data"]
    for key, what in SAME_DATA.items():
        if before[key] != now[key]:
            raise ConfigError(f"resume={run.path}: trained on {what} {before[key]}, and the data have {now[key]}")
    old, new = written["checksums"], record["checksums"]
    if changed := sorted(key for key in old if old[key] != new.get(key)):
        raise ConfigError(f"resume={run.path}: the data have changed since: {', '.join(changed)}")


def _continue_logs(config: DictConfig, run: RunDir, steps: int) -> None:
    """Have TensorBoard drop the steps that are trained again, and keep the CSV logger from deleting its old file."""
    for node in config.logger.values():
        if node._target_.endswith(".TensorBoardLogger"):
            node.purge_step = steps + 1
        elif node._target_.endswith(".CSVLogger") and (run.path / str(node.version)).is_dir():
            node.version = f"{node.version}_from_step_{steps}"
