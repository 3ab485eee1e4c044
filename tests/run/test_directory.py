"""Promise 11: a run directory has one owner; and what run_dir.py writes is whole."""

import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from killing import COMMON, SETTINGS, Killing, SignalAt, differences, in_child, outcome, started
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.run.lifecycle import new_run, new_run_at
from lithydra.run.locks import own
from lithydra.training.dry_run import try_out
from lithydra.training.engine import GradientClassifier

PROMISE = "11. A run directory has one owner"


def test_runs_of_the_same_second_get_different_directories(tmp_path: Path) -> None:
    paths = {new_run(tmp_path, "digits_mlp").path for _ in range(5)}
    assert len(paths) == 5


def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    with own(run):
        assert in_child(partial(own, run), log) == ConfigError.exit_code
    assert "in use by process" in log.read_text()


def test_the_lock_of_a_dead_owner_falls(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    assert in_child(partial(own, run), log) == 0  # ends without a release
    with own(run):
        assert "in use" not in log.read_text()


def test_a_directory_with_a_run_is_not_trained_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.update_status(state="finished")
    with pytest.raises(ConfigError, match=r"holds a run already; resume="):
        new_run_at(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such directory"), (".", "not a run directory")])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunDir.open(tmp_path / name)


def test_a_name_that_the_file_system_does_not_take_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run=.*/x+: cannot be written: File name too long$"):
        new_run_at(tmp_path / (300 * "x"))


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for epoch in (1, 2, 3):
        run.add_metrics({"epoch": epoch, "step": 10 * epoch, "train/loss": 0.5})
    run.keep_metrics(2)
    run.add_metrics({"epoch": 3, "step": 31})
    assert [(row["epoch"], row["step"]) for row in run.read_metrics()] == [("1", "10"), ("2", "20"), ("3", "31")]


def test_rows_that_are_lost_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    for epoch in (1, 2, 3):
        run.add_metrics({"epoch": epoch, "step": 10 * epoch, "train/loss": 0.5})
    whole = run.metrics.read_text()
    run.metrics.write_text(whole[: whole.rstrip().rindex("\n") + 1])  # as if cut at the end of a row
    run.keep_metrics(2)
    assert not caplog.messages
    run.keep_metrics(4)
    assert caplog.messages == [f"{run.metrics}: the rows of 2 of 4 epochs are lost: 3, 4"]


@pytest.mark.counted("pairs of processes on one directory, one goes on", 3)
@pytest.mark.parametrize("verb", ["run", "resume"])
def test_of_two_processes_exactly_one_goes_on(data_dir: Path, tmp_path: Path, verb: str) -> None:
    for trial in range(3):
        killing, run = Killing(data_dir, tmp_path / f"trial{trial}"), RunDir(tmp_path / f"run{trial}")
        settings = (*COMMON, *SETTINGS["steps"], f"run={run.path}")
        if verb == "resume":
            assert killing.child(*settings, kill=SignalAt("batch", 20)) == -9
            settings = (f"resume={run.path}",)
        logs = [tmp_path / f"log{trial}-{number}" for number in range(2)]
        children = [started(partial(killing.train, *settings), log) for log in logs]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(codes) == [0, ConfigError.exit_code], [log.read_text() for log in logs]
        told = logs[codes.index(ConfigError.exit_code)].read_text()
        assert "in use by process" in told or "holds a run already" in told or "finished after" in told
        assert run.read_status()["state"] == "finished"
        assert len(run.read_metrics()) == 3
        assert differences(killing.reference("steps"), outcome(run)) == []


def test_a_run_that_another_process_finishes_meanwhile_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    assert killing.child(*COMMON, *SETTINGS["steps"], f"run={run.path}", kill=SignalAt("batch", 20)) == -9

    def meanwhile(*parts: Any) -> list[str]:
        monkeypatch.setattr("lithydra.training.train.try_out", try_out)
        assert killing.child(f"resume={run.path}") == 0
        return try_out(*parts)

    monkeypatch.setattr("lithydra.training.train.try_out", meanwhile)
    with pytest.raises(ConfigError, match="finished after 3 epochs"):
        killing.train(f"resume={run.path}")
    assert run.read_status()["state"] == "finished"


def test_a_second_process_changes_nothing(data_dir: Path, tmp_path: Path) -> None:
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with own(run):
        before[run.path / ".owner"] = (run.path / ".owner").read_bytes()
        code = killing.child(f"resume={run.path}", "trainer.max_epochs=2")
    assert code == ConfigError.exit_code
    assert f"in use by process {os.getpid()} on {os.uname().nodename}" in (tmp_path / "log").read_text()
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


# A setting that is found to be wrong only when there is a run directory.
WRONG_TIMER = "+callbacks.timer={_target_: lightning.pytorch.callbacks.Timer, duration: tomorrow}"


def test_what_is_refused_does_not_hold_its_name(data_dir: Path, tmp_path: Path) -> None:
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "runs" / "run")
    with pytest.raises(ConfigError, match=r"callbacks: .*duration='tomorrow'"):
        killing.train(*COMMON, WRONG_TIMER, f"run={run.path}")
    assert not run.path.exists()
    killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    assert run.read_status()["state"] == "finished"


def test_what_is_refused_leaves_what_it_found(data_dir: Path, tmp_path: Path) -> None:
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="duration='tomorrow'"):
        killing.train(*COMMON, WRONG_TIMER, f"run={run.path}")
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_a_resume_that_is_refused_changes_nothing(data_dir: Path, tmp_path: Path) -> None:
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    files = (run.config, run.command, run.status, run.provenance, run.metrics, run.last)
    before = {path: path.read_bytes() for path in files}
    with pytest.raises(ConfigError, match="duration='tomorrow'"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2", WRONG_TIMER, "resume_anyway=true")
    assert before == {path: path.read_bytes() for path in files}


def test_what_crashed_is_kept_and_goes_on(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug is looked for in train.log; once it is mended, resume begins anew. The log alone tells of it."""
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    logging.getLogger().addHandler(console := logging.StreamHandler(sys.stdout))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(GradientClassifier, "on_fit_start", _crash)
        killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    logging.getLogger().removeHandler(console)
    assert "out of luck" not in capsys.readouterr().out
    assert run.log.read_text().count("RuntimeError: out of luck") == 1
    assert run.read_status()["state"] == "failed"
    killing.train(f"resume={run.path}")
    assert run.read_status()["state"] == "finished"


def _crash(module: GradientClassifier) -> None:
    raise RuntimeError("out of luck")


def test_a_damaged_status_is_named(tmp_path: Path) -> None:
    RunDir(tmp_path).status.write_text('{"state": "fini')
    with pytest.raises(ConfigError, match=r"status\.json: damaged"):
        RunDir(tmp_path).read_status()
