"""Promise 18: Lightning's own callbacks do what they do in stock Lightning, or are refused."""

from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, Timer

from conftest import Compose, RunTrain, checkpoint, rows
from lithydra.errors import ConfigError
from lithydra.training import build
from lithydra.training.loading import load
from stock_training import LIGHTNING, SETTINGS, assert_same_weights, stock

PROMISE = "18. Hooks tell the truth"


@pytest.mark.parametrize("every_n_steps", [1, 3])
def test_averaged_weights_are_those_of_stock_lightning(
    run_train: RunTrain, compose: Compose, tmp_path: Path, every_n_steps: int
) -> None:
    """In the checkpoint, and in the validation of each epoch."""
    options = f"decay: 0.9, update_every_n_steps: {every_n_steps}"
    run = run_train(*SETTINGS, f"+callbacks.ema={{_target_: {LIGHTNING}.EMAWeightAveraging, {options}}}")
    callback = EMAWeightAveraging(decay=0.9, update_every_n_steps=every_n_steps)
    assert_same_weights(run, stock(compose, tmp_path, *SETTINGS, callback=callback))
    saved = checkpoint(run.last)
    name = "net.head.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    data = build.data(compose(*SETTINGS))
    assert data.val is not None
    images, labels = next(iter(data.val_dataloader()))
    accuracy = (load(run.path, "last")(images).argmax(1) == labels).double().mean().item()
    assert float(rows(run)[-1]["val/acc"]) == pytest.approx(accuracy)


def test_steps_are_saved_as_in_stock_lightning(run_train: RunTrain, compose: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    options = f"dirpath: {folder}, every_n_train_steps: 5, save_top_k: -1"
    run_train(*SETTINGS, f"+callbacks.saver={{_target_: {LIGHTNING}.ModelCheckpoint, {options}}}")
    saver = ModelCheckpoint(tmp_path / "stock", every_n_train_steps=5, save_top_k=-1)
    stock(compose, tmp_path, *SETTINGS, callback=saver)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "stock").glob("*.ckpt")} and len(names) == 6
    for name in names:
        ours, theirs = (torch.load(path / name, weights_only=False) for path in (folder, tmp_path / "stock"))
        assert ours["global_step"] == theirs["global_step"] and ours["epoch"] == theirs["epoch"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value)


def test_timer_stops_where_it_does_in_stock_lightning(
    run_train: RunTrain, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks once a step."""

    def wind_up() -> None:
        ticks = count()
        monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(ticks))

    wind_up()
    run = run_train(*SETTINGS, f"+callbacks.timer={{_target_: {LIGHTNING}.Timer, duration: {{seconds: 5}}}}")
    wind_up()
    assert_same_weights(run, stock(compose, tmp_path, *SETTINGS, callback=Timer(timedelta(seconds=5))))
    assert checkpoint(run.last)["global_step"] == 5


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [
        ("StochasticWeightAveraging", "swa_lrs: 0.01", "EMAWeightAveraging and WeightAveraging work"),
        ("GradientAccumulationScheduler", "scheduling: {0: 2}", r"use trainer\.accumulate_grad_batches"),
        ("LearningRateFinder", "min_lr: 0.1", r"use scripts/lr_find\.py"),
        ("BatchSizeFinder", "init_val: 2", r"use data\.batch_size"),
    ],
)
def test_callbacks_that_decide_what_the_loop_decides_are_refused(
    run_train: RunTrain, tmp_path: Path, name: str, options: str, advice: str
) -> None:
    with pytest.raises(ConfigError, match=rf"callbacks\.mine: {name} does not work here: .*{advice}"):
        run_train(*SETTINGS, f"+callbacks.mine={{_target_: {LIGHTNING}.{name}, {options}}}")
    assert not (tmp_path / "runs").exists()
