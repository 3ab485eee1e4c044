"""Promise 1: a run that is killed anywhere and resumed ends bit for bit as if it had never stopped."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from killing import COMMON, OPENED, Killing, SignalAt, differences, outcome
from lithydra.data.loaders import TrainingOrder
from lithydra.metrics import TrainingSums
from lithydra.run.directory import RunDir
from lithydra.training import position
from lithydra.training.classifier import Classifier

PROMISE = "1. A killed run resumes bit for bit"

POINTS = {  # and after how many passages: early, in the middle, late
    "batch": (1, 20, 44),
    "before optimizer step": (2, 7, 11),
    "after optimizer step": (1, 5, 10),
    "validation": (1, 2, 3),
    "epoch end": (1, 2, 3),
    "saving": (3, 45, 90),
    "before rename": (1, 2, 3),
    "after rename": (1, 2, 3),
}
FAST = [("steps", point, passages[1]) for point, passages in POINTS.items()]
FAST += [("averaged", "after optimizer step", 8)]
# A budget in seconds is measured anew in each run: one that is killed keeps what it has measured.
REPEATABLE = tuple(name for name in OPENED if name != "seconds")
FAST += [(name, "after optimizer step", 7) for name in ("ema", "three augmentations", "distillation")]
FULL = ("plateau", "steps", "accumulation", "augmentation")
SHORT = ("lbfgs", "averaged", "files_0_workers", "files_2_workers")  # fewer steps: an early kill in each point
ALL = [(name, point, n) for name in FULL for point, passages in POINTS.items() for n in passages]
ALL += [(name, point, {"saving": 7, "batch": 20}.get(point, 2)) for name in REPEATABLE for point in POINTS]
ALL += [("compiled", "after optimizer step", 7)]
ALL += [(name, point, 2 if point != "saving" else 7) for name in SHORT for point in POINTS]


@pytest.mark.counted("kill points, resumed bit-equal")
@pytest.mark.parametrize(("name", "point", "passage"), FAST)
def test_a_killed_run_resumes_bit_for_bit(
    killing: Killing, tmp_path: Path, name: str, point: str, passage: int
) -> None:
    result = killing.killed_and_resumed(name, RunDir(tmp_path / "run"), SignalAt(point, passage))
    assert differences(killing.reference(name), result) == []


@pytest.mark.slow
@pytest.mark.counted("kill points, resumed bit-equal")
@pytest.mark.parametrize(("name", "point", "passage"), [case for case in ALL if case not in FAST])
def test_every_kill_point_resumes_bit_for_bit(
    killing: Killing, tmp_path: Path, name: str, point: str, passage: int
) -> None:
    result = killing.killed_and_resumed(name, RunDir(tmp_path / "run"), SignalAt(point, passage))
    assert differences(killing.reference(name), result) == []


@pytest.mark.counted("kill points, resumed bit-equal")
def test_a_budget_in_seconds_is_kept_by_a_resumed_run(killing: Killing, tmp_path: Path) -> None:
    """It is measured once, and is a number of steps from then on."""
    run, whole = RunDir(tmp_path / "run"), RunDir(tmp_path / "whole")
    result = killing.killed_and_resumed("seconds", run, SignalAt("after optimizer step", 5))
    measured = run.read_config()["trainer"]
    assert measured["max_seconds"] is None
    length = (f"trainer.{key}={measured[key]}" for key in ("max_steps", "max_epochs"))
    settings = [
        s for s in killing.settings("seconds") if not s.startswith(("trainer.max_seconds", "trainer.max_epochs"))
    ]
    assert killing.child(*settings, *length, f"run={whole.path}") == 0
    assert differences(outcome(whole), result) == []


@pytest.mark.counted("kill points, resumed bit-equal", 3)
def test_several_kills_in_one_run_resume_bit_for_bit(killing: Killing, tmp_path: Path) -> None:
    kills = (SignalAt("batch", 9), SignalAt("saving", 20), SignalAt("validation", 1))
    result = killing.killed_and_resumed("accumulation", RunDir(tmp_path / "run"), *kills)
    assert differences(killing.reference("accumulation"), result) == []


def shuffled(order: TrainingOrder, device: torch.device) -> torch.Tensor:
    """An order drawn anew at each start, as a shuffling DataLoader's is."""
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
    return torch.randperm(order.num_images, generator=generator).to(device)


def forgets_sums(classifier: Classifier, checkpoint: dict[str, Any]) -> None:
    checkpoint["record"]["progress"]["train_sums"] = vars(TrainingSums())
    LOAD(classifier, checkpoint)


LOAD = Classifier.on_load_checkpoint
# What a comparison must notice: the thing broken, how, and where the difference shows.
CONTROLS = {
    "a shuffling loader": (TrainingOrder, "permutation", shuffled, "/weights"),
    "random state not restored": (position, "set_random_state", lambda state: None, "/weights"),
    "half an epoch's sums lost": (Classifier, "on_load_checkpoint", forgets_sums, "/metrics.csv"),
}


@pytest.mark.counted("negative controls that failed as they must")
@pytest.mark.parametrize("control", CONTROLS)
def test_what_breaks_exactness_fails_the_comparison(
    killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    reference = killing.reference("steps")
    owner, name, broken, place = CONTROLS[control]
    monkeypatch.setattr(owner, name, broken)
    result = killing.killed_and_resumed("steps", RunDir(tmp_path / "run"), SignalAt("batch", 20))
    assert any(d.startswith(place) for d in differences(reference, result))


def test_resuming_without_a_checkpoint_starts_at_the_beginning(killing: Killing, tmp_path: Path) -> None:
    result = killing.killed_and_resumed("steps", RunDir(tmp_path / "run"), SignalAt("fit start", 1))
    assert differences(killing.reference("steps"), result) == []


def test_a_run_resumes_where_fewer_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, here = [torch.Generator().manual_seed(seed).get_state() for seed in (1, 2)], torch.Generator()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "default_generators", (here,))
    monkeypatch.setattr(torch.cuda.random, "_lazy_call", lambda call, **_: call())  # as where CUDA is initialized
    position.set_random_state({"cpu": torch.get_rng_state(), "cuda": saved})
    assert torch.equal(here.get_state(), saved[0])


@pytest.fixture
def logged(killing: Killing, tmp_path: Path) -> RunDir:
    """A run with TensorBoard's and a CSV logger that was killed in its second epoch, moved, and resumed."""
    run, moved = RunDir(tmp_path / "run"), RunDir(tmp_path / "moved")
    settings = (*COMMON, "logger=many", "trainer.log_every_n_steps=1", "trainer.steps_per_execution=4")
    settings = (*settings, "checkpoint.every_n_steps=6", f"run={run.path}")
    assert killing.child(*settings, kill=SignalAt("batch", 25)) == -9
    run.path.rename(moved.path)
    assert killing.child(f"resume={moved.path}") == 0, (killing.outputs / "log").read_text()
    return moved


def test_tensorboard_has_each_step_once_after_a_resume(logged: RunDir, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged.path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss_step")] == [*range(1, 46)]
    assert [event.step for event in events.Scalars("val/acc")] == [15, 30, 45]
    assert not (tmp_path / "run").exists()


def test_the_csv_of_a_logger_outlives_a_resume(logged: RunDir) -> None:
    assert (logged.path / "csv" / "metrics.csv").exists()
    assert (logged.path / "csv_from_step_24" / "metrics.csv").exists()


def test_a_resume_is_added_to_the_record(logged: RunDir) -> None:
    assert len(logged.command.read_text().splitlines()) == 2
    origin = json.loads(logged.provenance.read_text())
    assert "resumed" in origin and origin["resumed"][0]["overrides"] == [f"resume={logged.path}"]
