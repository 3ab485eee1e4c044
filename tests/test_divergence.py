"""Promise 7: divergence stops a run before it touches the weights, and leaves nothing that is NaN."""

import math
from pathlib import Path

import pytest

from conftest import RunTrain
from lithydra.callbacks.checkpoint import RunCheckpoint
from lithydra.checkpoint_io import load
from lithydra.errors import DivergedError
from lithydra.run_dir import RunDir

PROMISE = "7. Divergence stops before the weights break"

SMALL = ("data.limit=256", "model.hidden=[16]", "trainer.max_epochs=3", "callbacks=none")


@pytest.mark.parametrize("steps_per_execution", [1, 16])
def test_an_exploding_lr_stops_the_run_before_the_weights_break(
    run_train: RunTrain, tmp_path: Path, steps_per_execution: int
) -> None:
    with pytest.raises(
        DivergedError, match=r"Diverged at step \d+: the (loss|gradient of net\.\S+) is not finite .* lr 1e\+18"
    ):
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
