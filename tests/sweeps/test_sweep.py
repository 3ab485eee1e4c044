"""Promise 8: sweeps restart, and every failure is listed; `python train.py -m …` with the local launcher."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

import lithydra.training.train
from sweeping import QUICK, Command, Done, start, sweep, table, wait_for

PROMISE = "8. Sweeps restart, and every failure is listed"

SIX = ("seed=range(0,6)", *QUICK)
THREE = ("seed=range(0,3)", *QUICK)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Done:
    """Six jobs that nothing happened to."""
    done = sweep(*SIX, folder=tmp_path_factory.mktemp("whole"), data_dir=data_dir)
    assert done.code == 0, done.output
    return done


def in_job(seed: int, event: Callable[[DictConfig], Any]) -> Callable[[], None]:
    """A patch: `event` happens at the start of the job with this seed."""

    def patch() -> None:
        original = lithydra.training.train.train

        def train(config: DictConfig, choices: dict[str, str], overrides: list[str]) -> float | None:
            if config.seed == seed:
                event(config)
            return original(config, choices, overrides)

        lithydra.training.train.train = train  # pyright: ignore[reportAttributeAccessIssue]

    return patch


def all_of(*patches: Callable[[], None]) -> Callable[[], None]:
    def patch() -> None:
        for one in patches:
            one()

    return patch


def test_a_sweep_is_a_directory_of_runs(uninterrupted: Done) -> None:
    plan = uninterrupted.sweep.read()
    assert plan.axes == {"seed": ["0", "1", "2", "3", "4", "5"]}
    assert plan.objective == {"metric": "val/acc", "mode": "max"}
    assert [job.run for job in plan.jobs] == [f"seed={n}" for n in range(6)]
    assert set(uninterrupted.states().values()) == {"finished"}
    for job in plan.jobs:
        run = uninterrupted.sweep.run(job)
        assert run.read_config() == uninterrupted.sweep.config(job)
        assert run.command.read_text() == f"python train.py {' '.join(job.overrides)}\n".replace(
            "model.hidden=[16]", "'model.hidden=[16]'"
        )
        assert "epoch" not in uninterrupted.output.split("New sweep")[0]
    best = max(run.read_status()["metrics"]["val/acc"] for run in uninterrupted.runs().values())
    assert f"6 of 6 jobs finished; best val/acc {best:.4f}: seed=" in uninterrupted.output
    assert re.search(r"\[6/6\] seed=\d: finished, val/acc 0\.\d{4}, 2 epochs, \d+\.\d s", uninterrupted.output)


def test_the_same_command_again_trains_nothing(uninterrupted: Done, data_dir: Path) -> None:
    before = {name: run.status.stat().st_mtime_ns for name, run in uninterrupted.runs().items()}
    again = sweep(*SIX, folder=uninterrupted.sweep.path.parents[2], data_dir=data_dir)
    assert (again.code, "6 of 6 jobs ended before" in again.output) == (0, True)
    assert {name: run.status.stat().st_mtime_ns for name, run in again.runs().items()} == before


def killed_in(seed: int, settings: tuple[str, ...], folder: Path, data_dir: Path) -> Done:
    """The sweep whose driver is killed while the job of this seed is in its second epoch."""
    command = start(*settings, "sweep.n_jobs=1", folder=folder, data_dir=data_dir, patch=slow_epochs(seed))
    status = folder / "outputs" / "sweeps" / "s" / f"seed={seed}" / "status.json"
    wait_for(lambda: status.exists() and '"epoch": 1' in status.read_text())
    command.kill(signal.SIGKILL)
    return command.wait()


def slow_epochs(seed: int) -> Callable[[], None]:
    """A patch: the job of this seed takes a second for each step of its second epoch."""

    def patch() -> None:
        from lithydra.training.engine import GradientClassifier

        original = GradientClassifier._update

        def update(module: Any, *args: Any, **kwargs: Any) -> Any:
            trained = module._trainer is not None  # else it is the dry run's copy
            if trained and module.record["config"]["seed"] == seed and module.trainer.current_epoch == 1:
                time.sleep(0.5)
            return original(module, *args, **kwargs)

        GradientClassifier._update = update  # pyright: ignore[reportAttributeAccessIssue]

    return patch


def kill_and_continue(seed: int, settings: tuple[str, ...], folder: Path, data_dir: Path, reference: Done) -> None:
    killed = killed_in(seed, settings, folder, data_dir)
    assert killed.code == -signal.SIGKILL
    states = list(killed.states().values())
    assert states[:seed] == ["finished"] * seed and set(states[seed + 1 :]) <= {"not started"}
    finished = {n: run.status.stat().st_mtime_ns for n, run in killed.runs().items() if n < f"seed={seed}"}
    done = sweep(*settings, "sweep.n_jobs=1", folder=folder, data_dir=data_dir)
    assert done.code == 0, done.output
    whole = table(reference)
    assert table(done) == {name: whole[name] for name in killed.runs()}
    assert {n: run.status.stat().st_mtime_ns for n, run in done.runs().items() if n in finished} == finished
    assert "Going on after epoch 1" in done.runs()[f"seed={seed}"].log.read_text()


def test_a_killed_driver_is_continued_by_the_same_command(uninterrupted: Done, data_dir: Path, tmp_path: Path) -> None:
    kill_and_continue(1, THREE, tmp_path, data_dir, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_driver_killed_at_any_job_is_continued(
    uninterrupted: Done, data_dir: Path, tmp_path: Path, seed: int
) -> None:
    kill_and_continue(seed, SIX, tmp_path, data_dir, uninterrupted)


def explode(config: DictConfig) -> None:
    raise RuntimeError("the disk is on fire")


def diverge(config: DictConfig) -> None:
    config.optimizer.lr = 1e30


def die(config: DictConfig) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


THREE_BAD = all_of(in_job(1, explode), in_job(2, diverge), in_job(4, die))


def test_each_failure_is_its_own_and_the_others_go_on(data_dir: Path, tmp_path: Path, uninterrupted: Done) -> None:
    bad = sweep(*SIX, folder=tmp_path, data_dir=data_dir, patch=THREE_BAD)
    assert bad.code == 1
    assert list(bad.states().values()) == ["finished", "failed", "diverged", "finished", "failed", "finished"]
    errors = [line for line in bad.output.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: seed=1: failed: the disk is on fire"
    assert errors[1].startswith("error: seed=2: diverged: ") and "1e+30" in errors[1]
    assert errors[2] == "error: seed=4: failed: killed by SIGKILL (from outside, or for want of memory)"
    assert errors[3].startswith("error: 3 of 6 jobs have no result") and len(errors) == 4
    logs = {name: run.log.read_text() for name, run in bad.runs().items()}
    assert "RuntimeError: the disk is on fire" in logs["seed=1"] and "Traceback" in logs["seed=1"]
    assert bad.runs()["seed=2"].read_status()["error"] in logs["seed=2"]
    assert all(run.read_config()["seed"] == int(name[-1]) for name, run in bad.runs().items())

    again = sweep(*SIX, folder=tmp_path, data_dir=data_dir)
    assert (again.code, again.states()) == (1, bad.states())

    retried = sweep(*SIX, "sweep.retry=true", folder=tmp_path, data_dir=data_dir)
    assert retried.code == 0, retried.output
    assert table(retried) == table(uninterrupted)


def test_on_error_stop_starts_no_more_jobs(data_dir: Path, tmp_path: Path) -> None:
    settings = (*THREE, "sweep.on_error=stop", "sweep.n_jobs=1")
    done = sweep(*settings, folder=tmp_path, data_dir=data_dir, patch=in_job(1, explode))
    assert done.code == 1
    assert list(done.states().values()) == ["finished", "failed", "not started"]
    assert "error: seed=2: not started" in done.output


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_stops_the_sweep_with_its_jobs_saved(
    uninterrupted: Done, data_dir: Path, tmp_path: Path, number: int, code: int
) -> None:
    command = start(*THREE, folder=tmp_path, data_dir=data_dir, patch=all_of(slow_epochs(0), slow_epochs(1)))
    runs = [tmp_path / "outputs" / "sweeps" / "s" / f"seed={n}" / "status.json" for n in (0, 1)]
    wait_for(lambda: all(path.exists() and '"epoch": 1' in path.read_text() for path in runs))
    command.kill(number)
    stopped = command.wait()
    assert stopped.code == code
    assert list(stopped.states().values()) == ["interrupted"] * 2 + ["not started"]
    assert "The same command goes on: python train.py -m 'seed=range(0,3)'" in stopped.output
    done = sweep(*THREE, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    whole = table(uninterrupted)
    assert table(done) == {name: whole[name] for name in done.runs()}


@pytest.mark.slow
def test_two_sweeps_at_once_do_not_disturb_each_other(uninterrupted: Done, data_dir: Path, tmp_path: Path) -> None:
    commands: list[Command] = [start(*SIX, folder=tmp_path, data_dir=data_dir, name=name) for name in ("a", "b")]
    for done in [command.wait() for command in commands]:
        assert done.code == 0, done.output
        assert table(done) == table(uninterrupted)


def test_of_two_processes_on_one_sweep_one_proceeds(data_dir: Path, tmp_path: Path) -> None:
    first = start(*THREE, folder=tmp_path, data_dir=data_dir, patch=slow_epochs(0))
    status = tmp_path / "outputs" / "sweeps" / "s" / "seed=0" / "status.json"
    wait_for(status.exists)
    second = sweep(*THREE, folder=tmp_path, data_dir=data_dir)
    assert second.code == 2
    assert f"error: sweep.name=s: in use by process {first.process} on " in second.output
    assert first.wait().code == 0


def test_jobs_share_what_the_server_has_loaded(data_dir: Path, tmp_path: Path) -> None:
    """The file is read once; the jobs meet the arrays that they inherit."""

    def patch() -> None:
        from lithydra.data import prepare

        original = prepare._load

        def load(*args: Any) -> Any:
            with (tmp_path / "reads").open("a") as file:
                file.write("read\n")
            return original(*args)

        prepare._load = load

    done = sweep(*THREE, folder=tmp_path, data_dir=data_dir, patch=patch)
    assert done.code == 0, done.output
    assert (tmp_path / "reads").read_text() == "read\n"


@pytest.mark.slow
def test_a_job_that_its_queue_stops_goes_on_later(data_dir: Path, tmp_path: Path, uninterrupted: Done) -> None:
    """Submitit ends a job at its time limit with SystemExit, and starts it again later."""

    def patch() -> None:
        from lithydra.training.engine import GradientClassifier

        original = GradientClassifier._update

        def update(module: Any, *args: Any, **kwargs: Any) -> Any:
            trained = module._trainer is not None  # else it is the dry run's copy
            if trained and module.record["config"]["seed"] == 1 and module.trainer.current_epoch == 1:
                raise SystemExit(-1)
            return original(module, *args, **kwargs)

        GradientClassifier._update = update  # pyright: ignore[reportAttributeAccessIssue]

    stopped = sweep(*THREE, folder=tmp_path, data_dir=data_dir, patch=patch)
    assert stopped.states() == {"seed=0": "finished", "seed=1": "interrupted", "seed=2": "finished"}
    done = sweep(*THREE, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    assert table(done)["seed=1"] == table(uninterrupted)["seed=1"]


def test_a_study_is_a_named_sweep(data_dir: Path, tmp_path: Path) -> None:
    settings = ("study=digits/optimizer", "optimizer=sgd", "lr=0.1,0.01", "seed=0", *QUICK, "sweep.name=s")
    refused = sweep(*settings, folder=tmp_path, data_dir=data_dir)
    assert refused.code == 2 and "optimizer: not varied here" in refused.output  # a rule of the study compares it
    done = sweep("study.verdict=[]", *settings, folder=tmp_path, data_dir=data_dir)
    assert done.code == 0, done.output
    plan = done.sweep.read()
    assert plan.axes == {"lr": ["0.1", "0.01"]}
    assert plan.study is not None and plan.study["title"] == "Optimizer and learning rate on the digits"
    assert yaml.safe_load((done.sweep.configs / f"{plan.jobs[0].key}.yaml").read_text())["trainer"]["max_epochs"] == 2
