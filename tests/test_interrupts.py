"""Promise 6: a signal ends a run after the step at hand, saved, with its exit code and the line that goes on."""

import signal
from pathlib import Path

import pytest

from killing import SignalAt, differences, outcome
from lithydra.checkpoint_io import load
from lithydra.interrupts import interruptible
from lithydra.run_dir import RunDir
from test_resume import COMMON, SETTINGS, Killing

PROMISE = "6. Signals save, stop and can be resumed from"


@pytest.fixture(scope="module")
def killing(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Killing:
    return Killing(data_dir, tmp_path_factory.mktemp("signals"))


@pytest.mark.parametrize("point", ["fit start", "batch", "validation", "saving", "test"])
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_saves_stops_and_resumes(
    killing: Killing, tmp_path: Path, point: str, number: int, exit_code: int
) -> None:
    run = RunDir(tmp_path / "run")
    log = killing.outputs / "log"
    log.write_text("")
    kill = SignalAt(point, 2 if point == "batch" else 1, number)
    code = killing.child(*COMMON, *SETTINGS["steps"], f"run={run.path}", kill=kill)
    assert code == exit_code
    assert f"Go on with: python train.py resume={run.path}" in log.read_text()
    assert run.read_status()["state"] == "interrupted"
    assert killing.child(f"resume={run.path}") == 0
    assert run.read_status()["state"] == "finished"
    assert differences(killing.reference("steps"), outcome(run)) == []


def test_a_signal_in_training_is_obeyed_at_the_next_step(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    settings = (*COMMON, *SETTINGS["steps"], "checkpoint.every_n_steps=null")
    killing.child(*settings, f"run={run.path}", kill=SignalAt("batch", 6, signal.SIGTERM))
    assert load(run.last)["lithydra"]["progress"]["steps"] == 6


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with interruptible(RunDir(tmp_path)):
        assert signal.getsignal(signal.SIGUSR1) != before
    assert signal.getsignal(signal.SIGUSR1) == before
