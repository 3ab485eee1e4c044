import csv
import json
import math
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, log_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.nn import functional as F

from conftest import ROOT, SMALL, Compose, RunTrain, assert_equal, checkpoint, rows, weights
from lithydra.run import lifecycle
from lithydra.run.directory import TIMES, RunDir
from lithydra.run.lifecycle import new_run
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.train import train

METRICS = {f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "acc")}


def test_run_directory_holds_what_the_design_lists(run_train: RunTrain, data_dir: Path) -> None:
    overrides = ("data.limit=300", "trainer.max_epochs=2", "seed=3")
    run = run_train(*overrides)

    config = yaml.safe_load(run.config.read_text())
    assert set(re.findall(r"\$\{.*?\}", run.config.read_text())) == {"${run}"}  # so that a moved run logs where it lies
    assert config["lr"] == config["optimizer"]["lr"] == 0.001 and config["data"]["seed"] == 3
    assert checkpoint(run.best)["record"]["config"] == config

    assert re.fullmatch(r"python \S.*\n", run.command.read_text())

    origin = json.loads(run.provenance.read_text())
    git = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert origin["git"]["commit"] == (git.stdout.strip() if git.returncode == 0 else None)
    assert (origin["git"]["diff"] is None) == (git.returncode != 0)
    assert origin["packages"]["torch"] == version("torch") and origin["packages"]["hydra-core"] == version("hydra-core")
    assert origin["python"] == sys.version.split()[0]
    assert origin["hardware"]["torch_threads"] == 1 and origin["hardware"]["gpus"] == []
    assert origin["seed"] == 3 and origin["overrides"][:3] == list(overrides)
    assert (origin["choices"]["data"], origin["choices"]["model"]) == ("digits", "mlp")
    assert (origin["data"]["num_train"], origin["data"]["num_val"], origin["data"]["num_test"]) == (270, 30, 360)
    assert re.fullmatch("[0-9a-f]{8}", origin["data"]["x_train"])

    status = json.loads(run.status.read_text())
    times = [datetime.fromisoformat(status.pop(key)) for key in ("started", "finished")]
    assert times[0] <= times[1]
    metrics = status.pop("metrics")
    assert metrics.keys() == METRICS and all(math.isfinite(value) for value in metrics.values())
    best = status.pop("best_epoch")
    assert status.pop("compute").keys() == {"peak_memory", "flops_per_second", "peak"}
    expected = {"state": "finished", "epoch": 2, "step": 34}
    assert status == expected | {"best_checkpoint": "checkpoints/best.ckpt", "more_epochs": "trainer.max_epochs=4"}

    with run.metrics.open() as file:
        header, *values = csv.reader(file)
    assert header == ["epoch", "step", "lr", "train/loss", "train/acc", "val/loss", "val/acc", *TIMES]
    assert [row[:3] for row in values] == [["1", "17", "0.001"], ["2", "34", "0.001"]]
    assert float(values[best - 1][5]) == metrics["val/loss"] and all(float(row[-1]) > 0 for row in values)

    names = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    files = {"config.yaml", "command.txt", "provenance.json", "status.json", "metrics.csv", "train.log", "run.html"}
    files |= {"class_scores.csv"}
    assert names == files | {"checkpoints", "plots", "tensorboard"}
    assert {path.name for path in run.checkpoints.iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert list((run.path / "tensorboard").glob("events.out.tfevents.*"))


def test_run_names_itself_by_date_data_and_model(compose: Compose) -> None:
    config = compose(*SMALL, "data.limit=100", "trainer.max_epochs=1")
    train(config, {"data": "digits", "model": "mlp"}, [])
    (directory,) = Path(config.paths.runs).iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_digits_mlp", directory.name)


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2020, 1, 2, 3, 4, 5)

    monkeypatch.setattr(lifecycle, "datetime", StoppedClock)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: new_run(tmp_path, "digits_mlp"), range(20)))
    names = {run.path.name for run in runs}
    assert names == {"2020-01-02_03-04-05_digits_mlp", *(f"2020-01-02_03-04-05_digits_mlp_{n}" for n in range(2, 21))}
    assert all(run.path.is_dir() for run in runs)


class Epilogue(L.Callback):
    """Notes what status.json says when its hook is called."""

    def on_run_end(self, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
        run = RunDir(Path(trainer.default_root_dir))
        (run.path / "epilogue.txt").write_text(f"{run.read_status()['state']} {type(data).__name__}")


def test_callbacks_are_called_when_the_results_are_written(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "trainer.max_epochs=1", "+callbacks.last={_target_: test_train.Epilogue}")
    assert (run.path / "epilogue.txt").read_text() == "finished Digits"


def test_crash_is_recorded(run_train: RunTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: RunCheckpoint, trainer: Any, module: Any) -> None:
        if trainer.global_step == 20:
            raise RuntimeError("out of luck")

    monkeypatch.setattr(RunCheckpoint, "on_optimizer_step", crash)
    with pytest.raises(RuntimeError, match="out of luck"):
        run_train(*SMALL)
    run = RunDir(tmp_path / "runs" / "1")
    status = run.read_status()
    assert (status["state"], status["error"], status["epoch"], status["step"]) == ("failed", "out of luck", 1, 17)
    assert datetime.fromisoformat(status["finished"]) >= datetime.fromisoformat(status["started"])
    assert "Traceback" in run.log.read_text() and "RuntimeError: out of luck" in run.log.read_text()
    assert [row["epoch"] for row in run.read_metrics()] == ["1"]


def test_seed_decides_all_that_is_random(run_train: RunTrain) -> None:
    random = (*SMALL, "model.dropout=0.3", "augmentation=affine", "model.hidden=[50]")
    first, again, other = (run_train(*random, f"seed={seed}") for seed in (0, 0, 1))
    assert rows(first) == rows(again) != rows(other)
    assert_equal(weights(first), weights(again))
    assert first.read_status()["metrics"] == again.read_status()["metrics"]


def test_order_and_split_follow_the_seed_at_equal_weights(run_train: RunTrain) -> None:
    """`data.seed` is `seed` unless it is given: then the weights start alike and the images differ."""
    first, other = (run_train(*SMALL, f"data.seed={seed}", "lr=1e-9") for seed in (0, 1))
    torch.testing.assert_close(weights(first)["net.head.weight"], weights(other)["net.head.weight"], rtol=0, atol=1e-6)
    assert rows(first) != rows(other)


def test_without_validation_the_last_weights_are_tested(run_train: RunTrain, caplog: pytest.LogCaptureFixture) -> None:
    run = run_train(*SMALL, "data.val_fraction=0")
    assert "the last weights are tested" in caplog.text and "the last weights are tested" in run.log.read_text()
    assert not run.best.exists()
    status = run.read_status()
    assert "best_epoch" not in status and "best_checkpoint" not in status
    last = run.read_metrics()[-1]
    assert last["val/loss"] == last["val/acc"] == ""
    _, test_loss, test_acc = evaluated(run.last, run, "test")
    assert status["metrics"]["test/loss"] == pytest.approx(test_loss, rel=1e-5)
    assert status["metrics"]["test/acc"] == pytest.approx(test_acc, rel=1e-6)
    assert status["metrics"]["train/loss"] == float(last["train/loss"])
    assert status["metrics"].keys() == METRICS - {"val/loss", "val/acc"}


@pytest.mark.parametrize(("metric", "mode"), [("train/loss", "min"), ("train/acc", "max")])
@pytest.mark.parametrize("val_fraction", [0, 0.1])
def test_training_metric_can_be_monitored(
    compose: Compose, tmp_path: Path, metric: str, mode: str, val_fraction: float
) -> None:
    """best.ckpt is kept by it, with validation and without."""
    monitor = (f"monitor.metric={metric}", f"monitor.mode={mode}", f"data.val_fraction={val_fraction}")
    value = train(compose(*SMALL, *monitor, f"run={tmp_path / 'run'}"), {"data": "digits", "model": "mlp"}, [])
    run = RunDir(tmp_path / "run")
    metrics = run.read_status()["metrics"]
    assert run.read_status()["best_epoch"] == 2 and run.best.exists()
    assert value == float(run.read_metrics()[-1][metric]) == metrics[metric]
    assert ("val/loss" in metrics) == bool(val_fraction)


@pytest.mark.parametrize(("metric", "mode"), [("val/loss", "min"), ("val/acc", "max")])
def test_best_checkpoint_is_that_of_the_best_epoch(
    run_train: RunTrain, compose: Compose, tmp_path: Path, metric: str, mode: str
) -> None:
    config = compose(
        *SMALL,
        "trainer.max_epochs=8",
        "lr=0.03",
        f"monitor.metric={metric}",
        f"monitor.mode={mode}",
        f"run={tmp_path / 'run'}",
    )
    returned = train(config, {"data": "digits", "model": "mlp"}, [])
    run = RunDir(tmp_path / "run")
    values = [float(row[metric]) for row in run.read_metrics()]
    best = min(values) if mode == "min" else max(values)
    epoch = max(n for n, value in enumerate(values, start=1) if value == best)  # of equals the later
    assert len(values) == 8 and epoch < 8, "the last epoch is the best: this run tells nothing"
    status = run.read_status()
    assert status["best_epoch"] == epoch == checkpoint(run.best)["epoch"] + 1
    assert checkpoint(run.last)["epoch"] == 7
    row = run.read_metrics()[epoch - 1]
    assert returned == best == status["metrics"][metric]
    for name in METRICS - {"test/loss", "test/acc"}:
        assert status["metrics"][name] == float(row[name])
    for split, size in (("val", 30), ("test", 360)):
        num_images, loss, acc = evaluated(run.best, run, split)
        assert num_images == size
        assert status["metrics"][f"{split}/loss"] == pytest.approx(loss, rel=1e-5)
        assert status["metrics"][f"{split}/acc"] == pytest.approx(acc, rel=1e-6)


def evaluated(path: Path, run: RunDir, split: str) -> tuple[int, float, float]:
    """Number of images, loss and accuracy of an MLP checkpoint on digits, without any of lithydra's code for it."""
    saved = checkpoint(path)
    config, net = saved["record"]["config"], saved["state_dict"]
    with np.load(Path(config["data"]["dir"]) / "digits.npz") as file:
        arrays = dict(file)
    if split == "test":
        images, labels = arrays["x_test"], arrays["y_test"]
    else:
        from sklearn.model_selection import train_test_split

        positions, limit = np.arange(len(arrays["y_train"])), config["data"]["limit"]
        for size in (limit, round(limit * (1 - config["data"]["val_fraction"]))):
            kept, rest = train_test_split(
                positions, train_size=size, stratify=arrays["y_train"][positions], random_state=config["seed"]
            )
            positions = np.sort(kept)
        images, labels = arrays["x_train"][np.sort(rest)], arrays["y_train"][np.sort(rest)]
    x = torch.from_numpy(images).float()[:, None] / 255
    x = ((x - net["normalization.mean"]) / net["normalization.std"]).flatten(1)
    x = F.linear(x, net["net.hidden.0.0.weight"], net["net.hidden.0.0.bias"]).relu()
    logits = F.linear(x, net["net.head.weight"], net["net.head.bias"]).double()
    probabilities = logits.softmax(1).numpy()
    loss = log_loss(labels, probabilities, labels=range(10))
    return len(labels), float(loss), float(accuracy_score(labels, probabilities.argmax(1)))


def test_test_metrics_are_those_of_an_independent_computation(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "data.eval_batch_size=100")  # 360 test images: the last batch is smaller
    metrics = run.read_status()["metrics"]
    num_images, loss, acc = evaluated(run.best, run, "test")
    assert num_images == 360
    assert metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["test/acc"] == pytest.approx(acc, rel=1e-6)


def test_tensorboard_has_the_curves_and_the_final_metrics(run_train: RunTrain) -> None:
    run = run_train(
        "data.limit=300",
        "trainer.max_epochs=2",
        "trainer.steps_per_execution=16",
        "trainer.log_every_n_steps=5",
        "scheduler=cosine",
        "lr=0.01",
        "seed=4",
    )
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()

    def curve(name: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(name)}

    table = run.read_metrics()
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert curve(name) == pytest.approx({17: float(table[0][name]), 34: float(table[1][name])})
    metrics = run.read_status()["metrics"]
    first = sorted(events.Tags()["scalars"] + events.Tags()["images"])[0]
    assert first.startswith("train/")  # on which TensorBoard opens
    assert curve("train/loss_step").keys() == {5, 10, 15, 20, 25, 30}
    lr = curve("train/lr")
    assert lr.keys() == {5, 10, 15, 17, 20, 25, 30, 34}
    assert lr[5] == pytest.approx(0.005 * (1 + math.cos(math.pi * 4 / 34)))  # the lr of step 5, after four steps
    assert all(later < earlier for earlier, later in pairwise(lr.values()))

    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    row = plugin_data_pb2.HParamsPluginData.FromString(content)  # pyright: ignore[reportAttributeAccessIssue]
    hparams = row.session_start_info.hparams
    assert hparams["model"].string_value == "mlp" and hparams["scheduler"].string_value == "cosine"
    assert (hparams["lr"].number_value, hparams["seed"].number_value) == (0.01, 4)
    for name, value in metrics.items():
        assert events.Scalars(f"with_best/{name}")[-1].value == pytest.approx(value)
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    columns = plugin_data_pb2.HParamsPluginData.FromString(content).experiment.metric_infos  # pyright: ignore[reportAttributeAccessIssue]
    assert [column.name.tag for column in columns][:2] == ["with_best/val/acc", "with_best/test/acc"]


def test_moved_run_is_read_where_it_lies(run_train: RunTrain, tmp_path: Path) -> None:
    run = run_train(*SMALL)
    moved = RunDir(Path(shutil.move(run.path, tmp_path / "elsewhere")))
    assert moved.path / moved.read_status()["best_checkpoint"] == moved.checkpoint()
    text = moved.config.read_text() + moved.status.read_text()
    assert str(run.path) not in text
