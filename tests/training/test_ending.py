"""Why a run ended is said, and the line that it prints for more epochs trains more epochs."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import Checkpoint

from killing import COMMON, Killing, SignalAt, differences, outcome
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.search.report_to_trial import ReportToTrial

PROMISE = "14. What a run says is of that run"

SHORT = (*COMMON, "model.dropout=0", "model.batch_norm=false")
TIMER = "+callbacks.timer={_target_: test_ending.Timer, duration: '00:00:00:00'}"


class Timer(callbacks.Timer):
    """Is looked at for the first time after the first chunk."""

    def on_fit_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None: ...


class Patience(callbacks.EarlyStopping):
    """Of another name than Lightning's, and no setting says what it watches."""

    def __init__(self, metric: str, patience: int) -> None:
        super().__init__(metric, min_delta=0.5, patience=patience, mode="max")


class Limit(Timer):
    """Of another name than Lightning's."""


def impatient() -> callbacks.EarlyStopping:
    return Patience("val/acc", 1)


def limited() -> callbacks.Timer:
    return Limit("00:00:00:00")


class StopsItself(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 0


class Pruned(ReportToTrial):
    """As a search's, which has pruned the run at its first epoch."""

    def __init__(self) -> None:
        Checkpoint.__init__(self)
        self.pruned = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None: ...

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pruned = trainer.should_stop = trainer.current_epoch == 0


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "lithydra"):
        yield caplog


OWN = "trust=[test_ending]"  # of code that only the command line has named
BEFORE = "+callbacks.before={_target_: test_ending.Patience, metric: train/acc, patience: 9}"
NOT_BETTER = "val/acc did not become better than .* in 1 epochs .patience=1."

# Settings, why the run stops, and what goes on; None where nothing does.
ENDINGS = {
    "epochs": (("trainer.max_epochs=1",), None, "trainer.max_epochs=2"),
    "steps": (("trainer.max_steps=20",), "trainer.max_steps=20", "trainer.max_steps=40"),
    "both": (("trainer.max_epochs=2", "trainer.max_steps=30"), None, "trainer.max_epochs=4 trainer.max_steps=60"),
    "patience": (
        ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=0.5"),
        f"^early stopping: {NOT_BETTER}",
        "+callbacks.early_stopping.patience=2",
    ),
    "threshold": (
        ("callbacks=early_stopping", "+callbacks.early_stopping.stopping_threshold=0.01"),
        "early stopping: Stopping threshold reached: val/acc = .* > 0.01",
        "+callbacks.early_stopping.stopping_threshold=null",
    ),
    "time": (
        (TIMER,),
        "callbacks.timer.duration=00:00:00:00 is over",
        "+callbacks.timer.duration=00:00:00:01 trust=[test_ending]",
    ),
    "class of one's own": (
        (BEFORE, "+callbacks.own={_target_: test_ending.Patience, metric: val/acc, patience: 1}"),
        f"^early stopping: {NOT_BETTER}",
        f"+callbacks.own.patience=2 resume_anyway=true {OWN}",
    ),
    "metric without its key": (
        (BEFORE, "+callbacks.own={_target_: test_ending.Patience, _args_: [val/acc], patience: 1}"),
        f"^early stopping: {NOT_BETTER}",
        f"+callbacks.own.patience=2 resume_anyway=true {OWN}",
    ),
    "patience without its key": (
        ("+callbacks.own={_target_: test_ending.Patience, _args_: [val/acc, 1]}",),
        f"^early stopping by Patience: {NOT_BETTER}",
        OWN,
    ),
    "function": (
        ("+callbacks.own={_target_: test_ending.impatient}",),
        f"^early stopping by Patience: {NOT_BETTER}",
        OWN,
    ),
    "time of a class of one's own": (
        (TIMER.replace("Timer", "Limit"),),
        "^callbacks.timer.duration=00:00:00:00 is over",
        f"+callbacks.timer.duration=00:00:00:01 resume_anyway=true {OWN}",
    ),
    "time of a function": (
        ("+callbacks.own={_target_: test_ending.limited}",),
        "^Limit.duration=00:00:00:00 is over",
        None,
    ),
    "itself": (("+callbacks.own={_target_: test_ending.StopsItself}",), "a callback has asked for it", OWN),
    "pruned": (("+callbacks.search={_target_: test_ending.Pruned}",), "pruned by the search", OWN),
    "fast_dev_run": (("+trainer.fast_dev_run=true",), "trainer.fast_dev_run", None),
    "schedule": (("scheduler=cosine", "trainer.max_epochs=1"), None, None),
    "nearest_mean": (("model=nearest_mean",), None, None),
}


@pytest.mark.counted("ends of a run: the printed line goes on")
@pytest.mark.parametrize("name", ENDINGS)
def test_the_printed_line_trains_more_epochs(
    killing: Killing, tmp_path: Path, said: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    settings, stopped, more = ENDINGS[name]
    run = RunDir(tmp_path / "run")
    base = SHORT if name != "nearest_mean" else tuple(s for s in SHORT if not s.startswith("model."))
    killing.train(*base, *settings, f"run={run.path}")
    status = run.read_status()
    assert re.search(stopped, status["stopped"]) if stopped else "stopped" not in status
    assert ("Stopped after epoch" in said.text) == bool(stopped)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("more epochs"))
    if more is None:
        assert line.startswith("more epochs    none: ") and status["no_more_epochs"] in line
        with pytest.raises(ConfigError, match=re.escape(status["no_more_epochs"])):
            killing.train(f"resume={run.path}", OWN)
        return
    assert line == f"more epochs    python train.py resume={run.path} {more}".rstrip()
    killing.train(f"resume={run.path}", *more.split())
    assert run.read_status()["step"] > status["step"]
    assert run.read_status()["epoch"] > status["epoch"]


def test_a_finished_run_says_what_would_go_on(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SHORT, *ENDINGS["patience"][0], f"run={run.path}")
    with pytest.raises(ConfigError, match=r"finished after 2 epochs \(early stopping: .*; \+callbacks\.\S* would go"):
        killing.train(f"resume={run.path}")


def test_a_run_ends_earlier_than_was_first_said(killing: Killing, tmp_path: Path) -> None:
    run, shorter = RunDir(tmp_path / "run"), RunDir(tmp_path / "shorter")
    killing.train(*SHORT, "trainer.max_epochs=2", f"run={shorter.path}")
    assert killing.child(*SHORT, "trainer.max_epochs=9", f"run={run.path}", kill=SignalAt("batch", 40)) == -9
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=1: the run is in epoch 2 already"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"trainer\.max_steps=29: the run is in step 30 already"):
        killing.train(f"resume={run.path}", "trainer.max_steps=29")
    killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    assert differences(outcome(shorter), outcome(run)) == []
    assert run.read_config()["trainer"]["max_epochs"] == 2


def test_an_epoch_that_has_begun_is_ended(killing: Killing, tmp_path: Path) -> None:
    run, settings = RunDir(tmp_path / "run"), (*SHORT, "checkpoint.every_n_steps=5", "trainer.steps_per_execution=5")
    assert killing.child(*settings, f"run={run.path}", kill=SignalAt("batch", 22)) == -9
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs=1: the run is in epoch 2 already"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=1")
    killing.train(f"resume={run.path}", "trainer.max_epochs=2")
    assert run.read_status()["epoch"] == 2


def test_a_run_is_resumed_with_early_stopping(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SHORT, "trainer.max_epochs=1", f"run={run.path}")
    stopping = ENDINGS["patience"][0]
    killing.train(f"resume={run.path}", "trainer.max_epochs=9", *stopping, "logger=none")
    assert run.read_status()["stopped"].startswith("early stopping: ")
    assert run.read_status()["epoch"] == 3


@pytest.mark.parametrize("metric", ["val/loss", "train/loss"])
def test_epochs_without_the_metric_do_not_count(killing: Killing, tmp_path: Path, metric: str) -> None:
    """Early stopping and a plateau look at the epochs that were validated; of a training metric, at each."""
    run = RunDir(tmp_path / "run")
    watch = (f"monitor.metric={metric}", "monitor.mode=min", "+trainer.check_val_every_n_epoch=2")
    stopping = (*ENDINGS["patience"][0], "callbacks.early_stopping.min_delta=9", "callbacks.early_stopping.patience=2")
    plateau = ("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=9", "scheduler.threshold_mode=abs")
    killing.train(*SHORT, "trainer.max_epochs=9", *stopping, *plateau, *watch, f"run={run.path}")
    epochs = 6 if metric == "val/loss" else 3
    assert run.read_status()["epoch"] == epochs
    assert run.read_status()["best_epoch"] == epochs
    rates = [float(row["lr"]) for row in run.read_metrics()]
    assert len(set(rates)) == 2


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be")  # of a run of fewer than five calls
@pytest.mark.parametrize("profiler", ["simple", "advanced", "pytorch"])
def test_a_profiler_says_what_it_found(
    killing: Killing, tmp_path: Path, capsys: pytest.CaptureFixture[str], profiler: str
) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SHORT, "debug=profiler", f"trainer.profiler={profiler}", f"run={run.path}")
    printed = capsys.readouterr().out
    for stage in ("fit", "test"):
        file = run.path / f"{stage}-profile.txt"
        assert f"{file}, its first lines:\n{stage.upper()} Profiler Report" in printed
        assert f"{stage.upper()} Profiler Report" in file.read_text()


def test_without_a_profiler_there_is_no_file_of_it(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SHORT, "trainer.max_epochs=1", f"run={run.path}")
    assert not list(run.path.glob("*profile*"))
