"""Promise 13: two processes stop together, whoever is told to or is lost, and are resumed and swept bit for bit."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from test_interrupts import wait_until

from conftest import ROOT
from killing import SignalAt, differences, outcome
from lithydra.data.loaders import TrainingBatch
from lithydra.run.directory import RunDir
from lithydra.run.signals import EXIT_CODES
from lithydra.training import processes, rank
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.engine import GradientClassifier
from ranks import OWN, PLAIN, ForkedRank, Runs, ended
from sweeping import sweep

PROMISE = "13. Several processes, one result"


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """How an uninterrupted run of two processes ends."""
    return outcome(Runs(data_dir, tmp_path_factory.mktemp("reference")).finished("run", *OWN))


TARGETS = {"main": {"rank": 0}, "other": {"rank": 1}, "all": {"rank": 0, "group": True}}
POINTS = {"set-up": "fit start", "training": "batch", "validation": "validation", "test": "test"}
FAST = {("training", "other", signal.SIGTERM), ("validation", "all", signal.SIGINT), ("test", "other", signal.SIGTERM)}


@pytest.mark.counted("signals to one of two processes, or to both: saved, stopped, resumed bit-equal")
@pytest.mark.parametrize(
    ("point", "target", "number"),
    [
        pytest.param(point, TARGETS[target], number, id=f"{number.name} to {target} in {phase}", marks=marks)
        for number in EXIT_CODES
        for target in TARGETS
        for phase, point in POINTS.items()
        for marks in [[] if (phase, target, number) in FAST else [pytest.mark.slow]]
    ],
)
def test_a_signal_to_any_process_stops_all(
    runs: Runs, reference: dict, point: str, target: dict, number: signal.Signals
) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt(point, 1, number, **target)
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install)) == EXIT_CODES[number]
    assert run.read_status()["state"] == "interrupted"
    assert f"Go on with: python train.py resume={run.path}" in run.read_status()["error"]
    assert runs.rank_is_gone()
    assert ended(runs.start(f"resume={run.path}", "accelerator=ddp_cpu")) == 0, runs.log.read_text()
    assert differences(reference, outcome(run)) == []


@pytest.mark.counted("clocks: saved within the epoch, ended alike")
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))])
def test_saves_by_the_clock_are_the_main_process_s(runs: Runs, reference: dict, number: int) -> None:
    """Each process would save at another step by its own clock, and wait there for the others."""

    def note() -> None:
        save = RunCheckpoint.save_within_epoch

        def noted(self: RunCheckpoint, trainer: L.Trainer) -> None:
            with (runs.folder / f"saved{trainer.global_rank}").open("a") as file:
                file.write(f"{trainer.global_step}\n")
            save(self, trainer)

        RunCheckpoint.save_within_epoch = noted

    seconds = 0.002 * (number + 1)
    settings = (*OWN, "checkpoint.every_n_steps=null", f"checkpoint.every_seconds={seconds}")
    run = RunDir(runs.folder / "run")
    assert ended(runs.start(*settings, f"run={run.path}", prepare=note)) == 0, runs.log.read_text()
    saves = [runs.folder / f"saved{rank}" for rank in (0, 1)]
    main, other = (path.read_text() if path.exists() else "" for path in saves)
    assert main == other and (main or seconds > 0.01)  # an epoch may be shorter than the longer intervals
    assert differences(reference, outcome(run)) == []


KILLS = [("batch", 20, 0), ("batch", 9, 1), ("validation", 2, 0), ("saving", 30, 0), ("before rename", 3, 0)]
KILLS += [("before optimizer step", 7, 1), ("epoch end", 2, 0), ("after optimizer step", 30, 1)]


@pytest.mark.counted("kill -9 of one of two processes: resumed bit-equal")
@pytest.mark.parametrize(
    ("point", "passage", "rank"), [KILLS[0], *(pytest.param(*kill, marks=pytest.mark.slow) for kill in KILLS[1:])]
)
def test_a_killed_run_of_two_processes_resumes_bit_for_bit(
    runs: Runs, reference: dict, point: str, passage: int, rank: int
) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt(point, passage, signal.SIGKILL, rank=rank)
    code = ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install))
    assert code == (1 if rank else -signal.SIGKILL)
    wait_until(runs.rank_is_gone)
    assert ended(runs.start(f"resume={run.path}", "accelerator=ddp_cpu")) == 0, runs.log.read_text()
    assert differences(reference, outcome(run)) == []


def test_a_process_that_is_lost_ends_the_run_with_one_line(runs: Runs) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt("batch", 3, signal.SIGKILL, rank=1)
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install)) == 1
    status = run.read_status()
    assert status["state"] == "failed"
    assert status["error"] == "Process 1 of 2 (from 0) ended by itself (signal 9)"


def test_a_process_that_is_lost_before_they_meet_ends_the_run(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wakes the main process then: it waits where no exception comes from."""
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)

    def fail() -> None:
        def broken(job: dict) -> int:
            print("no such file: weights", flush=True)
            return 7

        rank._carry_out = broken

    run = RunDir(runs.folder / "run")
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=fail)) == 1
    assert run.read_status()["error"] == "Process 1 of 2 (from 0) ended by itself (exit code 7)"
    assert "The last that process 1 said:\nno such file: weights" in run.log.read_text()


def test_a_process_that_diverges_stops_all(runs: Runs) -> None:
    """Its loss alone is not finite, in the middle of a step's batches: the weights are as yet the same in all."""

    def break_images() -> None:
        train: Any = GradientClassifier._train

        def broken(self: GradientClassifier, batch: TrainingBatch, *rest: Any, **options: Any) -> Any:
            if batch.number == 6 and self.trainer.global_rank == 1:
                batch = batch._replace(images=batch.images * math.nan)
            return train(self, batch, *rest, **options)

        GradientClassifier._train = broken  # pyright: ignore[reportAttributeAccessIssue]

    run = RunDir(runs.folder / "run")
    settings = (*PLAIN, "accelerator=ddp_cpu", "trainer.accumulate_grad_batches=4", "data.limit=257", f"run={run.path}")
    code = ended(runs.start(*settings, "trainer.steps_per_execution=7", prepare=break_images))
    assert code == 3, runs.log.read_text()
    assert run.read_status()["state"] == "diverged" and "Diverged at step 2" in run.read_status()["error"]
    assert runs.rank_is_gone()


@pytest.mark.slow
@pytest.mark.counted("real commands of two processes: signal, exit code, none left behind")
@pytest.mark.parametrize("target", ["main", "other", "all"])
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_real_command_of_two_processes(data_dir: Path, tmp_path: Path, number: int, target: str) -> None:
    run = RunDir(tmp_path / "run")
    command = [sys.executable, str(ROOT / "train.py"), "accelerator=ddp_cpu", f"run={run.path}", "logger=none"]
    command += [f"paths.data={data_dir}", "trainer.max_epochs=10000", "data.limit=256", "callbacks=none"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    wait_until(run.last.exists)
    (other,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    if target == "all":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid if target == "main" else int(other), number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODES[signal.Signals(number)], output
    assert run.read_status()["state"] == "interrupted"
    assert output.count("Go on with") == 1 and "Traceback" not in output
    assert not Path(f"/proc/{other}").exists()
    resumed = [*command[:3], f"resume={run.path}", f"trainer.max_epochs={len(run.read_metrics()) + 2}"]
    subprocess.run(resumed, cwd=tmp_path, check=True, timeout=120)
    assert run.read_status()["state"] == "finished"


def test_a_sweep_of_runs_on_two_processes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict
) -> None:
    """A job is a fork of a server, which could not be started again as another process of the run."""
    monkeypatch.setattr(processes, "spawn", ForkedRank)
    own = [setting for setting in OWN if not setting.startswith(("data.batch_size", "callbacks", "logger"))]
    given = ("callbacks=none", "logger=none", "data.batch_size=16,17", *own)
    done = sweep(*given, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    assert set(done.states().values()) == {"finished"}
    assert differences(reference, outcome(done.runs()["data.batch_size=16"])) == []
