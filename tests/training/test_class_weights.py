from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import QUIET, SMALL, RunTrain, assert_equal, checkpoint, rows, weights
from killing import SETTINGS, Killing, SignalAt, differences
from lithydra import load
from lithydra.errors import ConfigError
from lithydra.losses import CrossEntropy
from lithydra.run import checkpoints
from lithydra.run.directory import RunDir
from lithydra.training.loading import load_data
from ranks import Runs

COUNTS = (60, 30, 10)
BALANCED = torch.tensor([100 / (3 * count) for count in COUNTS])
STILL = (*QUIET, "trainer.max_epochs=1", "lr=1e-12", "optimizer=sgd", "data.val_fraction=0")


@pytest.fixture
def unbalanced(tmp_path: Path) -> tuple[str, str]:
    """100 + 30 images: 60, 30 and 10 of each class in training."""
    labels = np.concatenate([np.repeat([0, 1, 2], COUNTS), np.repeat([0, 1, 2], 10)])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    path = tmp_path / "unbalanced.npz"
    np.savez(path, x_train=images[:100], y_train=labels[:100], x_test=images[100:], y_test=labels[100:])
    return "data=npz", f"data.path={path}"


def test_balanced_weights_are_of_the_training_images(run_train: RunTrain, unbalanced: tuple[str, str]) -> None:
    run = run_train(*STILL, *unbalanced, "data.batch_size=7", "loss.class_weights=balanced")
    torch.testing.assert_close(weights(run)["loss.weight"], BALANCED)
    module = load(run.path, "last")
    data = load_data(module.record, str(run.path))
    for split, told in (
        (data.train, rows(run)[-1]["train/loss"]),
        (data.test, run.read_status()["metrics"]["test/loss"]),
    ):
        assert split is not None
        logits, labels = module(split.pixels(0)), split.own_labels
        each = cross_entropy(logits, labels, reduction="none")
        assert float(told) == pytest.approx((BALANCED[labels] * each).mean().item(), rel=1e-5)


def test_only_images_that_are_trained_on_are_counted(run_train: RunTrain, unbalanced: tuple[str, str]) -> None:
    settings = (*STILL, *unbalanced, "data.batch_size=5", "loss.class_weights=balanced")
    run = run_train(*settings, "data.val_fraction=0.5", "data.classes=[1,2]")
    torch.testing.assert_close(weights(run)["loss.weight"], torch.tensor([20 / (2 * 15), 20 / (2 * 5)]))


def test_accumulated_batches_have_the_gradient_of_the_whole(run_train: RunTrain, unbalanced: tuple[str, str]) -> None:
    settings = (*QUIET, *unbalanced, "trainer.max_epochs=2", "data.val_fraction=0", "optimizer=sgd", "lr=0.1")
    settings += ("loss.class_weights=balanced",)
    whole = run_train(*settings, "data.batch_size=50")
    parts = run_train(*settings, "data.batch_size=10", "trainer.accumulate_grad_batches=5")
    torch.testing.assert_close(weights(parts), weights(whole), atol=1e-6, rtol=1e-5)
    plain = run_train(*settings, "data.batch_size=50", "loss.class_weights=null")
    assert (weights(plain)["net.head.weight"] - weights(whole)["net.head.weight"]).abs().max() > 1e-3


def test_two_processes_train_as_one(data_dir: Path, tmp_path: Path) -> None:
    settings = (*QUIET, "model.hidden=[16]", "optimizer=sgd", "lr=0.1", "data.limit=115", "data.batch_size=16")
    settings += ("trainer.max_epochs=2", "data.val_fraction=0", "loss.class_weights=[.1,.2,.3,.4,.5,.6,.7,.8,.9,9]")
    one, two = (
        Runs(data_dir, tmp_path).finished(name, *settings, f"accelerator={name}") for name in ("cpu", "ddp_cpu")
    )
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=0, atol=1e-5)


def test_a_checkpoint_keeps_the_weights(run_train: RunTrain, unbalanced: tuple[str, str]) -> None:
    given = run_train(*STILL, *unbalanced, "data.batch_size=10", "loss.class_weights=[1,2,3.5]")
    loss = load(given.path, "last").loss
    assert isinstance(loss, CrossEntropy) and loss.weight is not None
    assert loss.weight.tolist() == [1, 2, 3.5]


def test_a_checkpoint_of_torchs_loss_loads(run_train: RunTrain) -> None:
    run = run_train(*SMALL)
    content = checkpoint(run.last)
    content["record"]["config"]["loss"] = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}
    checkpoints.save(content, run.last)
    loss = load(run.path, "last").loss
    assert type(loss) is torch.nn.CrossEntropyLoss and loss.label_smoothing == 0.1


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_weights_have_the_precision_of_the_logits(run_train: RunTrain, precision: str) -> None:
    run = run_train(*SMALL, "loss.class_weights=balanced", "augmentation=mixup", f"trainer.precision={precision}")
    assert float(rows(run)[-1]["train/loss"]) < float(rows(run)[0]["train/loss"])


def test_another_number_of_weights_is_refused_before_training(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError) as error:
        run_train(*SMALL, "loss.class_weights=[1,2,3]")
    assert str(error.value) == "loss.class_weights=[1, 2, 3]: must be one number a class, 10 of them"


def test_a_killed_run_resumes_bit_for_bit(killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("loss.class_weights=balanced", "augmentation=cutmix", "checkpoint.every_n_steps=3")
    monkeypatch.setitem(SETTINGS, "class weights", settings)
    result = killing.killed_and_resumed("class weights", RunDir(tmp_path / "run"), SignalAt("batch", 23))
    assert differences(killing.reference("class weights"), result) == []


@pytest.mark.parametrize("before", ["null", "balanced", "[1,1,1,1,1,1,1,1,1,1]"])
@pytest.mark.parametrize("after", ["null", "[1,2,3,4,5,6,7,8,9,10]"])
def test_new_weights_win_when_a_run_is_resumed_anyway(
    killing: Killing, tmp_path: Path, before: str, after: str
) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SMALL, f"loss.class_weights={before}", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=3", f"loss.class_weights={after}", "resume_anyway=true")
    expected = {} if after == "null" else {"loss.weight": torch.arange(1.0, 11.0)}
    assert_equal({key: value for key, value in weights(run).items() if key.startswith("loss.")}, expected)
    assert len(rows(run)) == 3 and "test/loss" in run.read_status()["metrics"]


def test_another_loss_may_go_on(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*SMALL, "loss.class_weights=balanced", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=3", "loss=brier", "resume_anyway=true")
    assert "loss.weight" not in weights(run) and len(rows(run)) == 3
