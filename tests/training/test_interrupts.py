"""Promise 6: a signal ends a run after the step at hand, saved, with its exit code and the line that goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest

from conftest import ROOT
from killing import COMMON, SETTINGS, Killing, SignalAt, differences, outcome
from lithydra.run.checkpoints import load
from lithydra.run.directory import RunDir
from lithydra.run.signals import EXIT_CODES
from lithydra.training.interrupts import interruptible

PROMISE = "6. Signals save, stop and can be resumed from"


PHASES = {"set-up": "fit start", "training": "batch", "validation": "validation", "saving": "saving", "test": "test"}
FAST = {(signal.SIGTERM, phase) for phase in PHASES} | {(signal.SIGINT, "training"), (signal.SIGUSR1, "saving")}


@pytest.mark.counted("signals x phases: saved, stopped, resumed bit-equal")
@pytest.mark.parametrize(
    ("number", "exit_code", "point"),
    [
        pytest.param(number, EXIT_CODES[number], point, id=f"{number.name} in {phase}", marks=[pytest.mark.slow] * slow)
        for number in EXIT_CODES
        for phase, point in PHASES.items()
        for slow in [(number, phase) not in FAST]
    ],
)
def test_a_signal_saves_stops_and_resumes(
    killing: Killing, tmp_path: Path, number: int, exit_code: int, point: str
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
    assert load(run.last)["record"]["progress"]["steps"] == 6


PLOTS = "+callbacks.plots={_target_: lithydra.callbacks.look_inside.LookInside}"
SWALLOWS = "+callbacks.own={_target_: test_interrupts.SwallowsErrors}"


class SwallowsErrors(L.Callback):
    """As a person's own callback may, or a library that it calls."""

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("callback", "point"), [(PLOTS, "pictures"), (SWALLOWS, "never")])
def test_a_signal_that_is_swallowed_still_ends_the_run(
    killing: Killing, tmp_path: Path, callback: str, point: str
) -> None:
    run = RunDir(tmp_path / "run")
    kill = SignalAt(point, 1, signal.SIGTERM) if point != "never" else None
    code = killing.child(*COMMON, "trainer.max_epochs=1", callback, f"run={run.path}", kill=kill)
    assert (code, run.read_status()["state"]) == (143, "interrupted")
    if point == "pictures":
        assert killing.child(f"resume={run.path}") == 0
        assert run.read_status()["state"] == "finished" and run.page.exists()


def test_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with interruptible(RunDir(tmp_path)):
        assert signal.getsignal(signal.SIGUSR1) != before
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.slow
@pytest.mark.counted("signals to real processes, before and in training")
@pytest.mark.parametrize("number", EXIT_CODES)
@pytest.mark.parametrize("phase", ["imports", "training"])
def test_a_real_process_obeys(data_dir: Path, tmp_path: Path, number: int, phase: str) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, str(ROOT / "train.py"), f"run={run.path}", f"paths.data={data_dir}", "logger=none"]
    command += ["trainer.max_epochs=10000", "data.limit=256"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if phase == "imports":
        wait_until(lambda: "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text())
    else:
        wait_until(run.last.exists)
    os.kill(process.pid, number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODES[signal.Signals(number)], errors
    (line,) = errors.splitlines()
    assert (output + errors).count(f"Stopped by {signal.Signals(number).name}") == 1
    if phase == "imports":
        assert line.endswith("before the run began. The same command starts it.")
        assert not run.path.exists()
    else:
        assert line.endswith(f"saved. Go on with: python train.py resume={run.path}")
        assert run.read_status()["state"] == "interrupted"
    assert "Traceback" not in output + errors


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError
