"""hydra/sweeper=optuna: the best composed again, pruned runs, and whole searches."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import lithydra
from conftest import CONF, ROOT, RunTrain
from lithydra.search.best import experiment
from lithydra.search.optuna_side import STUDY, open_storage, storage_address
from sweeping import sweep, table


@pytest.mark.parametrize(
    "given",
    [
        ("data=mnist", "optimizer=sgd", "lr=0.01", "model.hidden=[64,32]", "++optimizer.weight_decay=1e-05"),
        ("study=cifar10/random_search", "lr=0.001", "model.dropout=0.2", "data.batch_size=64"),
        ("study=mnist/augmentation", "variant=rotation", "augmentation.affine.degrees=5", "seed=3"),
        ("experiment=fashion_mnist_best", "metrics=[macro_f1]", "logger=none", "optimizer=adam", "lr=0.1"),
        ("experiment=cifar10_94", "+callbacks.mine={_target_: mine.Callback, every: 1}", "optimizer.momentum=0.5"),
    ],
)
def test_best_is_the_whole_config_of_its_job(given: tuple[str, ...], tmp_path: Path) -> None:
    """With what a study, an experiment and a variant give, and each setting that follows another still doing so."""
    about = ("sweep.name=x", "debug=limit", "~trainer.accelerator")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        text = experiment(GlobalHydra.instance().config_loader(), "train", (*given, *about))
        (tmp_path / "experiment").mkdir()
        (tmp_path / "experiment" / "best.yaml").write_text(f"# @package _global_\n{text}")
        searched = hydra_compose("train", list(given))
        best = hydra_compose("train", [f"hydra.searchpath=[file://{tmp_path}]", "experiment=best"])
    kept, found = (OmegaConf.to_container(config, resolve=False) for config in (searched, best))
    assert isinstance(kept, dict) and isinstance(found, dict)
    assert found == {key: value for key, value in kept.items() if key != "study"}
    assert "\nlr: " in text or not any(o.startswith("lr=") for o in given)  # also where it is sgd's own, 0.01


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Three trials that were near perfect from the first epoch on, and one that runs."""
    storage = open_storage(storage_address("sqlite", str(tmp_path)))
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="maximize")
    for _ in range(3):
        trial = study.ask()
        for epoch in range(1, 6):
            trial.report(0.999, epoch)
        study.tell(trial, 0.999)
    study.ask()
    return study


def reporting(tmp_path: Path, number: int) -> list[str]:
    callback = {
        "_target_": "lithydra.search.report_to_trial.ReportToTrial",
        "storage": storage_address("sqlite", str(tmp_path)),
        "number": number,
        "metric": "val/acc",
        "pruner": "median",
        "max_epochs": 5,
    }
    values = [
        f"+callbacks.report_to_trial.{key}='{value}'" for key, value in callback.items() if isinstance(value, str)
    ]
    return values + [f"+callbacks.report_to_trial.{k}={v}" for k, v in callback.items() if not isinstance(v, str)]


SHORT = ("data.limit=200", "trainer.max_epochs=5", "callbacks=none", "logger=none")


def test_a_run_without_prospects_is_pruned_while_it_runs(
    run_train: RunTrain, study: optuna.Study, tmp_path: Path
) -> None:
    pruner_options = "+callbacks.report_to_trial.pruner_options={n_startup_trials: 2}"
    run = run_train(*SHORT, *reporting(tmp_path, 3), pruner_options)
    status = run.read_status()
    assert (status["state"], status["epoch"]) == ("pruned", 1)
    assert "val/acc" in status["metrics"] and "test/acc" not in status["metrics"]
    assert study.trials[3].intermediate_values == {1: status["metrics"]["val/acc"]}


def test_a_trial_that_has_ended_prunes_nothing(run_train: RunTrain, study: optuna.Study, tmp_path: Path) -> None:
    run = run_train(*SHORT, *reporting(tmp_path, 0))
    assert run.read_status()["state"] == "finished" and run.read_status()["epoch"] == 5


@pytest.mark.parametrize("damage", ["no file", "another file", "no such trial"])
def test_a_trial_that_was_moved_goes_on_without_its_search(
    run_train: RunTrain, study: optuna.Study, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    if damage != "no such trial":
        (tmp_path / "optuna.db").unlink()
    if damage == "another file":
        (tmp_path / "optuna.db").write_bytes(b"no database" * 999)
    run = run_train(*SHORT, "trainer.max_epochs=1", *reporting(tmp_path, 7))
    assert run.read_status()["state"] == "finished"
    assert f"{tmp_path}/optuna.db: " in caplog.text and "The run goes on by itself" in caplog.text
    assert (tmp_path / "optuna.db").exists() == (damage != "no file")


@pytest.mark.slow
def test_a_search_over_added_keys_is_reported_and_its_lost_plan_made_again(tmp_path: Path, data_dir: Path) -> None:
    """With `++key` and `~key`; then sweep.json is lost, and at last the trials are."""
    every = ("hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=null")
    settings = (*every, *SMALL[:-1], "trainer.max_epochs=1", "optimizer=sgd", "~optimizer.nesterov", "++lr=0.1,0.01")
    first = sweep(*settings, folder=tmp_path, data_dir=data_dir)
    assert first.code == 0, first.output
    frame = lithydra.results(first.sweep.path)
    assert frame["lr"].tolist() == [0.1, 0.01]
    best = (first.sweep.path / "experiment" / "best.yaml").read_text()
    again = (
        f"python train.py --config-dir {first.sweep.path.relative_to(tmp_path)} experiment=best '~optimizer.nesterov'"
    )
    assert f"# {again}\n" in best and f"best again     {again}\n" in first.output
    assert yaml.safe_load(best)["lr"] in (0.1, 0.01) and "nesterov" not in yaml.safe_load(best)
    first.sweep.file.unlink()
    second = sweep(*settings, folder=tmp_path, data_dir=data_dir)
    assert second.code == 0, second.output
    assert table(second) == table(first)
    (first.sweep.path / "optuna.db").write_bytes(b"no database" * 999)
    refused = sweep(*settings, folder=tmp_path, data_dir=data_dir)
    assert refused.code == 2 and "optuna.db: not the trials of a search, or damaged" in refused.output
    assert "Traceback" not in refused.output
    (first.sweep.path / "optuna.db").unlink()
    third = sweep(*settings, folder=tmp_path, data_dir=data_dir)
    assert third.code == 0, third.output
    assert table(third) == table(first) and "2 trials finished" in third.output


SMALL = ("accelerator=cpu", "callbacks=none", "logger=none", "data.limit=300", "sweep.name=s")


def command(*settings: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "-m", "hydra/sweeper=optuna", *SMALL, *settings]


def environment(data_dir: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("LITHYDRA_OUTPUTS", "HYDRA_FULL_ERROR")}
    return {**kept, "LITHYDRA_DATA": str(data_dir), "OMP_NUM_THREADS": "1"}


def search(folder: Path, data_dir: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*settings), cwd=folder, env=environment(data_dir), capture_output=True, text=True, timeout=500
    )


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    path = folder / "outputs" / "sweeps" / "s"
    return optuna.load_study(study_name=STUDY, storage=open_storage(storage_address("sqlite", str(path)))).trials


@pytest.mark.slow
def test_a_diverging_trial_is_survived_and_the_best_runs_again(tmp_path: Path, data_dir: Path) -> None:
    done = search(
        tmp_path,
        data_dir,
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.n_trials=null",
        "lr=0.01,1e30",
        "trainer.max_epochs=2",
    )
    assert done.returncode == 0, done.stderr
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE", "FAIL"]
    frame = lithydra.results(tmp_path / "outputs/sweeps/s")
    assert list(frame["state"]) == ["finished", "diverged"] and "not finite" in frame["error"][1]
    assert "1 trials finished, 0 pruned, 1 failed or diverged" in done.stdout
    page = (tmp_path / "outputs/sweeps/s/report.html").read_text()
    assert "1 diverged" in page
    again = [sys.executable, str(ROOT / "train.py"), "--config-dir", "outputs/sweeps/s", "experiment=best", "run=again"]
    rerun = subprocess.run(again, cwd=tmp_path, env=environment(data_dir), capture_output=True, text=True, timeout=300)
    assert rerun.returncode == 0, rerun.stderr
    status = json.loads((tmp_path / "again" / "status.json").read_text())
    assert status["metrics"]["val/acc"] == frame["val/acc"][0]


@pytest.mark.slow
def test_a_killed_search_goes_on_to_exactly_n_trials(tmp_path: Path, data_dir: Path) -> None:
    """kill -9 of the driver, several times; the same command ends with the trials of an uninterrupted search."""
    settings = (
        "hydra.sweeper.n_trials=6",
        "sweep.n_jobs=1",
        "trainer.max_epochs=8",
        "lr=tag(log,interval(1e-4,1))",
        "optimizer=sgd,adam",
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert search(whole, data_dir, *settings).returncode == 0
    for kill in range(1, 4):
        process = subprocess.Popen(command(*settings), cwd=broken, env=environment(data_dir), stdout=subprocess.DEVNULL)
        wait_for_epochs(broken, kill, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = search(broken, data_dir, *settings)
    assert done.returncode == 0, done.stderr
    first, second = trials(whole), trials(broken)
    assert len(second) == 6 and {trial.state.name for trial in second} == {"COMPLETE"}
    assert [(t.params, t.values) for t in first] == [(t.params, t.values) for t in second]
    assert len(lithydra.results(broken / "outputs/sweeps/s")) == 6


def wait_for_epochs(folder: Path, number: int, process: "subprocess.Popen[bytes]") -> None:
    """Until trial `number` has trained its first epochs."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        runs = list((folder / "outputs/sweeps/s").glob("*/metrics.csv"))
        if len(runs) >= number and len(runs[-1].read_text().splitlines()) > 2:
            return
        time.sleep(0.05)
    raise AssertionError(f"trial {number} never began (exit code {process.poll()})")


@pytest.mark.slow
def test_several_objectives_keep_what_no_other_beats(tmp_path: Path, data_dir: Path) -> None:
    settings = (
        "hydra.sweeper.objectives=[val/acc,seconds]",
        "hydra.sweeper.n_trials=4",
        "trainer.max_epochs=int(interval(1,6))",
    )
    done = search(tmp_path, data_dir, *settings)
    assert done.returncode == 0, done.stderr
    assert all(len(trial.values) == 2 and trial.values[1] > 0 for trial in trials(tmp_path))
    assert (tmp_path / "outputs/sweeps/s/experiment/best.yaml").exists()


@pytest.mark.slow
def test_twenty_trials_with_pruning_beat_random_search_in_score_or_time(
    tmp_path: Path, data_dir: Path, record_property: Any
) -> None:
    space = ("lr=tag(log,interval(1e-5,1))", "optimizer=sgd,adam,rmsprop", "model.dropout=interval(0,0.6)")
    length = ("hydra.sweeper.n_trials=20", "trainer.max_epochs=20", "data.limit=null")
    found = {}
    for name, how in (("random", ["sampler=random"]), ("pruned", ["sampler=tpe", "pruner=median"])):
        folder = tmp_path / name
        folder.mkdir()
        done = search(folder, data_dir, *space, *length, *(f"hydra.sweeper.{setting}" for setting in how))
        assert done.returncode == 0, done.stderr
        frame = lithydra.results(folder / "outputs/sweeps/s")
        best = frame.loc[frame["state"] == "finished", "val/acc"].max()
        seconds, epochs = (frame[column].to_numpy().sum() for column in ("seconds", "epochs"))
        found[name] = (float(best), float(seconds), int(epochs))
        assert len(trials(folder)) == 20
        record_property(name, found[name])
        print(f"{name}: best val/acc {best:.4f}, {found[name][1]:.1f} s of training, {found[name][2]} epochs")
    (random_best, _, random_epochs), (best, _, epochs) = found["random"], found["pruned"]
    assert epochs < random_epochs
    assert best > random_best or (math.isclose(best, random_best, abs_tol=0.015) and epochs < 0.8 * random_epochs)
