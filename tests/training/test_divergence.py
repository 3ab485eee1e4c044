"""Promise 7: divergence ends a run, names the step and the lr, and leaves nothing that is NaN."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lithydra.models.mlp
from conftest import RunTrain
from killing import Killing, in_child
from lithydra import cli
from lithydra.data.loaders import Chunk
from lithydra.errors import DivergedError
from lithydra.run.checkpoints import load
from lithydra.run.directory import RunDir
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier

PROMISE = "7. Divergence ends a run and leaves no NaN"

SMALL = ("data.limit=256", "model.hidden=[16]", "trainer.max_epochs=3", "callbacks=none")


@pytest.mark.parametrize("steps_per_execution", [1, 16])
def test_an_exploding_lr_stops_the_run(run_train: RunTrain, tmp_path: Path, steps_per_execution: int) -> None:
    message = r"Diverged at step \d+: the loss is not finite \(lr 1e\+18\)\. No checkpoint was saved before\."
    with pytest.raises(DivergedError, match=message):
        run_train(*SMALL, "optimizer=sgd", "lr=1e18", f"trainer.steps_per_execution={steps_per_execution}")
    status = RunDir(tmp_path / "runs" / "1").read_status()
    assert status["state"] == "diverged"
    assert "Diverged at step" in status["error"]


def test_chunks_of_steps_stop_at_the_same_step_as_single_steps(run_train: RunTrain) -> None:
    messages = []
    for steps_per_execution in (1, 5, 16):
        with pytest.raises(DivergedError) as caught:
            run_train(*SMALL, "optimizer=sgd", "lr=1e18", f"trainer.steps_per_execution={steps_per_execution}")
        messages.append(str(caught.value))
    assert len(set(messages)) == 1


def test_no_checkpoint_holds_a_nan(run_train: RunTrain, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        run_train(*SMALL, "optimizer=sgd", "lr=1e18", "checkpoint.every_n_steps=1")
    for path in (tmp_path / "runs" / "1" / "checkpoints").glob("*.ckpt"):
        assert all(value.isfinite().all() for value in load(path)["state_dict"].values())


def test_a_nan_score_is_never_best() -> None:
    keeper = RunCheckpoint("val/acc", "max")
    assert not keeper._improves(math.nan)
    assert keeper._improves(0.1)


def test_divergence_ends_with_exit_code_3_one_message_and_no_nan_on_disk(data_dir: Path, tmp_path: Path) -> None:
    """After some good epochs: the explosion comes from an lr that rises."""
    run, log = RunDir(tmp_path / "run"), tmp_path / "log"
    explodes = ("optimizer=sgd", "lr=1e30", "scheduler=onecycle", "scheduler.div_factor=1e30")

    def task() -> None:
        GlobalHydra.instance().clear()
        sys.argv = ["train.py", f"paths.data={data_dir}", "accelerator=cpu", *SMALL, *explodes, f"run={run.path}"]
        cli.main("train")

    code = in_child(task, log)
    assert code == DivergedError.exit_code == 3, log.read_text()
    assert log.read_text().count("Diverged") == 1
    status = run.read_status()
    assert status["state"] == "diverged"
    assert all(math.isfinite(float(row["train/loss"])) for row in run.read_metrics())


def test_a_nan_of_the_validation_is_never_a_score(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its accuracy would be that of an argmax of NaN."""
    forward = Classifier.forward

    def broken(module: Classifier, images: torch.Tensor) -> torch.Tensor:
        logits = forward(module, images)
        return logits if module.training else logits * math.nan

    monkeypatch.setattr(Classifier, "forward", broken)
    with pytest.raises(DivergedError, match=r"Diverged by step 15: val/loss is nan"):
        run_train(*SMALL)


@pytest.mark.parametrize("steps_per_execution", [1, 16])
def test_a_broken_statistic_of_batchnorm_is_named(
    run_train: RunTrain, tmp_path: Path, steps_per_execution: int
) -> None:
    """In training BatchNorm does not use it, so that no loss shows it."""

    class Breaks(nn.Module):
        def __init__(self, in_shape: tuple[int, int, int], num_classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(in_shape[1] * in_shape[2], num_classes)
            self.mean: torch.Tensor
            self.register_buffer("mean", torch.zeros(1))
            self.steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += self.training
            if self.steps > 5:
                self.mean.fill_(math.inf)
            return self.head(x.flatten(1))

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(DivergedError, match=r"Diverged by step \d+: net\.mean is not finite"),
    ):
        patch.setattr(lithydra.models.mlp, "MLP", lambda in_shape, num_classes, **_: Breaks(in_shape, num_classes))
        run_train(*SMALL, f"trainer.steps_per_execution={steps_per_execution}")


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device: a value becomes a Python number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_device_is_not_waited_for_in_each_step(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[tuple[int, int]] = []  # steps, waits
    original = GradientClassifier.training_step

    def counted(module: GradientClassifier, chunk: Chunk, batch_idx: int) -> None:
        before = module.global_step
        with Waits() as waits:
            original(module, chunk, batch_idx)
        counts.append((module.global_step - before, waits.count))

    monkeypatch.setattr(GradientClassifier, "training_step", counted)
    run_train(*SMALL, "logger=none", "optimizer=sgd", "trainer.gradient_clip_val=1", "trainer.steps_per_execution=12")
    assert {steps for steps, _ in counts} == {12, 3}
    assert len({waits for _, waits in counts}) == 1 and counts[0][1] <= 3


def test_lbfgs_diverges_alike(run_train: RunTrain) -> None:
    messages = []
    for steps_per_execution in (1, 8):
        with pytest.raises(DivergedError) as caught:
            run_train(
                *SMALL,
                *("optimizer=lbfgs", "optimizer.line_search_fn=null", "lr=1e12", "data.batch_size=64"),
                f"trainer.steps_per_execution={steps_per_execution}",
            )
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("steps_per_execution", [1, 16])
def test_what_is_on_disk_is_said(data_dir: Path, tmp_path: Path, steps_per_execution: int) -> None:
    """Also of a run that was resumed and has saved nothing since."""
    run, chunk = RunDir(tmp_path / "run"), f"trainer.steps_per_execution={steps_per_execution}"
    killing = Killing(data_dir, tmp_path)
    with pytest.raises(DivergedError, match=r"last\.ckpt is of step 2\."):
        killing.train(*SMALL, "optimizer=sgd", "lr=1e18", "checkpoint.every_n_steps=1", chunk)
    killing.train(*SMALL, "trainer.max_epochs=1", "logger=none", chunk, f"run={run.path}")
    with pytest.raises(DivergedError, match=r"last\.ckpt is of step 15\."):
        killing.train(f"resume={run.path}", "trainer.max_epochs=2", "lr=1e30", "resume_anyway=true")
    assert load(run.last)["record"]["progress"]["steps"] == 15
