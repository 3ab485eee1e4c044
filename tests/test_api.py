"""lithydra.train, lithydra.sweep and the runs that they give: the same as the command line's, with exceptions."""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import lithydra
from by_hand import write_run
from conftest import SMALL, RunTrain, rows
from lithydra.errors import ConfigError, LithydraError, RunInterrupted
from lithydra.run.directory import RunDir


@pytest.fixture
def given(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Settings of a run of a second below tmp_path."""
    monkeypatch.chdir(tmp_path)
    return (*SMALL, f"paths.data={data_dir}", "accelerator=cpu", "accelerator.threads=1")


def test_a_run_is_that_of_the_command_line(given: tuple[str, ...], run_train: RunTrain, tmp_path: Path) -> None:
    before, handlers = list(sys.argv), logging.getLogger().handlers[:]
    run = lithydra.train(*given, "lr=0.01", run=tmp_path / "a=b")
    typed = run_train(*SMALL, "lr=0.01", "accelerator.threads=1")
    assert rows(RunDir(run.path)) == rows(typed) and run.metrics == typed.read_status()["metrics"]
    assert run.state == "finished" and run.config["lr"] == 0.01 and run.path == tmp_path / "a=b"
    assert "train.py" in (run.path / "command.txt").read_text() and "lr=0.01" in (run.path / "command.txt").read_text()
    assert sys.argv == before and "HYDRA_FULL_ERROR" not in os.environ and logging.getLogger().handlers == handlers


def test_what_a_run_gave_is_read_from_its_directory(given: tuple[str, ...]) -> None:
    run = lithydra.train(*given)
    curves = run.curves()
    assert curves["epoch"].tolist() == [1, 2] and max(curves["val/acc"].tolist()) == pytest.approx(
        run.metrics["val/acc"]
    )
    assert run.evaluate()["test/acc"] == pytest.approx(run.metrics["test/acc"])
    assert run.evaluate("split=val", "checkpoint=last").keys() == {"val/loss", "val/acc"}
    assert run.load().record["config"]["lr"] == run.config["lr"]
    assert f"test/acc {run.metrics['test/acc']:.4f}" in repr(run)
    assert f"<td>{run.metrics['test/acc']:.4f}</td>" in run._repr_html_()
    assert lithydra.Run(run.path).metrics == run.metrics
    assert lithydra.runs()["run"].tolist() == [f"runs/{run.path.name}"]


def test_a_run_goes_on(given: tuple[str, ...], run_train: RunTrain) -> None:
    run = lithydra.train(*given)
    longer = run.resume(max_epochs=3)
    assert longer.path == run.path
    assert rows(RunDir(run.path)) == rows(run_train(*SMALL, "trainer.max_epochs=3", "accelerator.threads=1"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lrr=0.1"], "lrr: no such setting. Did you mean lr?"),
        (["data=mnst"], "data=mnst: choose one of "),
        (["lr=0.1,0.2"], "lr=0.1,0.2: several values"),
        (["lr=-1"], "lr=-1: must be a number above 0"),
        (["lr"], "lr: not of the form key=value"),
        (["resume=nowhere"], "resume=nowhere: no such directory"),
    ],
)
def test_bad_input_is_an_exception_of_one_line(given: tuple[str, ...], settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        lithydra.train(*given, *settings)
    assert said in str(raised.value)
    assert not Path("outputs").exists()


def test_a_run_that_diverges_raises_and_keeps_what_it_has(given: tuple[str, ...]) -> None:
    with pytest.raises(LithydraError, match="loss"):
        lithydra.train(*given, "optimizer=sgd", "lr=1e30", run="here")
    assert lithydra.Run("here").state == "diverged"


def test_ctrl_c_leaves_an_interrupted_run_that_resumes(
    given: tuple[str, ...], run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_train(*SMALL, "trainer.max_epochs=4", "accelerator.threads=1")
    add_metrics = RunDir.add_metrics

    def press(run: RunDir, row: dict[str, Any], expected: tuple[str, ...] = ()) -> None:
        add_metrics(run, row, expected)
        if row["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched, pytest.raises(RunInterrupted, match="Stopped by SIGINT, saved"):
        patched.setattr(RunDir, "add_metrics", press)
        lithydra.train(*given, "trainer.max_epochs=4", run="here")
    assert signal.getsignal(signal.SIGINT) is before
    run = lithydra.Run("here")
    assert run.state == "interrupted" and len(run.curves()) == 2
    assert run.resume().state == "finished" and rows(RunDir(run.path)) == rows(whole)


def test_a_run_whose_process_is_gone_is_no_running_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 0.9)
    run.config.touch()
    run.update_status(state="running")
    assert lithydra.Run(run.path).state == "killed"


def test_there_is_no_run_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        lithydra.Run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no such directory"):
        lithydra.Sweep(tmp_path / "nowhere")


@pytest.mark.slow
def test_a_sweep_gives_its_results_and_goes_on(given: tuple[str, ...]) -> None:
    axes = (*given, "lr=0.1,0.01")
    sweep = lithydra.sweep(*axes)
    frame = sweep.results()
    assert frame["lr"].tolist() == [0.1, 0.01] and frame["state"].tolist() == ["finished"] * 2
    assert sweep.report.exists() and "lr=0.1" in sweep._repr_html_()
    assert [run.metrics["val/acc"] for run in sweep.runs()] == frame["val/acc"].tolist()
    more = lithydra.sweep(*given, "lr=0.1,0.01,0.001", name=sweep.path.name)
    assert more.path == sweep.path and len(more.results()) == 3
    assert more.results()["seconds"][:2].tolist() == frame["seconds"].tolist()  # not trained again
    with pytest.raises(ConfigError, match="lrr"):
        lithydra.sweep("lrr=0.1,0.2")
    with pytest.raises(LithydraError, match="1 of 2 jobs have no result"):
        lithydra.sweep(*given, "optimizer=sgd", "lr=0.1,1e30")
