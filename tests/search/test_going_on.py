"""Searches that go on: after a kill while a trial is asked for, and to more trials than they were begun with."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

import lithydra.training.train
from lithydra.search.optuna_side import STUDY, open_storage, storage_address
from sweeping import QUICK, Done, start, sweep, wait_for

SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.sampler=random", *QUICK, "trainer.max_epochs=1", "sweep.n_jobs=1")
SPACE = ("lr=tag(log,interval(1e-4,1e-1))", "model.dropout=interval(0,0.5)")


def trials(done: Done) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(storage_address("sqlite", str(done.sweep.path)))
    return optuna.load_study(study_name=STUDY, storage=storage).trials


def killed_while_asking() -> None:
    """A patch: the process ends when the second parameter of a trial is about to be stored."""
    original = optuna.trial.Trial._suggest

    def suggest(trial: Any, name: str, distribution: Any) -> Any:
        return original(trial, name, distribution) if name == "lr" else os._exit(9)

    optuna.trial.Trial._suggest = suggest  # pyright: ignore[reportAttributeAccessIssue]


def test_a_trial_that_was_half_asked_for_gets_its_other_parameters(data_dir: Path, tmp_path: Path) -> None:
    """Then the search that has ended goes on to one trial more."""
    where: dict[str, Any] = {"folder": tmp_path, "data_dir": data_dir}
    killed = sweep(*SEARCH, *SPACE, "hydra.sweeper.n_trials=1", **where, patch=killed_while_asking)
    (half,) = trials(killed)
    assert (killed.code, half.state.name, list(half.params)) == (9, "RUNNING", ["lr"])
    done = sweep(*SEARCH, *SPACE, "hydra.sweeper.n_trials=1", **where)
    (whole,) = trials(done)
    assert (done.code, whole.state.name, whole.params["lr"]) == (0, "COMPLETE", half.params["lr"]), done.output
    (job,) = done.sweep.read().jobs
    assert done.sweep.config(job)["model"]["dropout"] == whole.params["model.dropout"]
    more = sweep(*SEARCH, *SPACE, "hydra.sweeper.n_trials=2", **where)
    assert (more.code, len(trials(more)), len(more.runs())) == (0, 2, 2), more.output
    assert "2 of 2 trials; best so far" in more.output


def waiting_for(path: Path) -> Callable[[], None]:
    """A patch: each job says that it runs, and waits for `path`."""

    def patch() -> None:
        original = lithydra.training.train.train

        def train(*args: Any) -> float | None:
            (path.parent / "begun").touch()
            wait_for(path.exists)
            return original(*args)

        lithydra.training.train.train = train  # pyright: ignore[reportAttributeAccessIssue]

    return patch


def test_a_running_search_goes_on_to_more_trials(data_dir: Path, tmp_path: Path) -> None:
    """The same command with a larger number says so to the one that runs; what is no larger number is refused."""
    where: dict[str, Any] = {"folder": tmp_path / "work", "data_dir": data_dir}
    grid = (*SEARCH[2:], "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "lr=0.1,0.2,0.3")
    running = start(*grid, "hydra.sweeper.n_trials=1", **where, patch=waiting_for(tmp_path / "go"))
    wait_for((tmp_path / "begun").exists)
    raised = sweep(*grid, "hydra.sweeper.n_trials=2", **where)
    refused = sweep(*grid, "hydra.sweeper.n_trials=2", **where)
    (tmp_path / "go").touch()
    done = running.wait()
    assert raised.code == 0, raised.output
    assert "sweeps/s: the search that runs there goes on to 2 trials instead of 1\n" in raised.output
    assert refused.code == 2 and "sweep.name=s: in use by process " in refused.output
    assert done.code == 0 and "2 of 2 trials; best so far" in done.output, done.output
    assert [trial.params for trial in trials(done)] == [{"lr": "0.1"}, {"lr": "0.2"}]
