"""inspect_data, lr_find, compare and reproduce_run."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from conftest import CONF, QUIET, SMALL, Compose, RunTrain, assert_equal
from lithydra import cli
from lithydra.checks.config import check
from lithydra.data.loaders import TrainingBatch
from lithydra.errors import ConfigError, LithydraError
from lithydra.metrics import TrainedBatch
from lithydra.run.directory import RunDir
from lithydra.training import build
from lithydra.training.engine import GradientClassifier
from lithydra.verbs.compare import compare
from lithydra.verbs.inspect_data import inspect_data
from lithydra.verbs.lr_find import RangeTest, lr_find, range_test
from lithydra.verbs.reproduce_run import differences_of_origin, reproduce_run


def settings(verb: str, tmp_path: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=[f"paths.outputs={tmp_path / 'outputs'}", *overrides])


def test_inspecting_data_counts_classes_and_duplicates(
    compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    x_train = generator.integers(0, 200, (60, 8, 8), dtype=np.uint8)
    x_test = generator.integers(0, 200, (20, 8, 8), dtype=np.uint8)
    x_test[3], x_test[4], x_test[6] = x_train[10], x_train[55], x_test[5]
    path = tmp_path / "x.npz"
    np.savez(path, x_train=x_train, y_train=np.arange(60) % 3, x_test=x_test, y_test=np.arange(20) % 3)
    settings = ("data=npz", f"data.path={path}", "data.val_fraction=0.2", "data.batch_size=10")
    config = compose(*settings, "normalization=z_score", "augmentation=affine")
    picture = inspect_data(config, {"normalization": "z_score", "augmentation": "affine"})["picture"]
    assert picture.exists()
    said = capsys.readouterr().out
    assert "npz: images 1 x 8 x 8 uint8, 3 classes" in said
    assert "2 of 20 test images are exact duplicates of training or validation images; 1 are repeated" in said
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert ["0", "0", "16", "4", "7"] in rows and ["", "all", "48", "12", "20"] in rows
    assert ["", "mean", "0"] in rows and ["", "standard deviation", "1"] in rows  # after z_score
    assert ["as stored", "least", "0"] in rows


def lr_config(compose: Compose, *overrides: str) -> DictConfig:
    config = compose("data.limit=400", *overrides)
    with open_dict(config):
        config.lr_find = OmegaConf.load(CONF / "lr_find.yaml")["lr_find"]  # pyright: ignore[reportArgumentType, reportCallIssue]
        config.lr_find.num_steps = 60
    check(config)
    return config


def test_lr_find_suggests_what_learns(compose: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = lr_config(compose, "augmentation=affine")
    lr = lr_find(config, ["data.limit=400", "lr=9"])["lr"]
    assert 1e-4 < lr < 1
    said = capsys.readouterr().out
    assert f"train          python train.py data.limit=400 lr={lr:g}" in said
    assert (tmp_path / "outputs" / "lr_find" / "digits_MLP.png").exists()


def test_lr_find_leaves_net_data_and_random_state(compose: Compose) -> None:
    config = lr_config(compose, "model.batch_norm=true", "model.dropout=0.2", "augmentation=affine")
    data = build.data(config)
    module = build.classifier(config, data)
    assert isinstance(module, GradientClassifier)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    pixels, state = data.pixels().clone(), torch.get_rng_state()
    range_test(module, data, build.place(config), 1e-6, 1.0, 30)
    assert_equal(dict(module.state_dict()), before)
    assert torch.equal(data.pixels(), pixels) and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters()) and module.training


def test_lr_is_suggested_where_the_loss_falls_fastest() -> None:
    lrs = [10 ** (-5 + i / 10) for i in range(50)]
    smoothed = [2 - 1 / (1 + np.exp(-(i - 20))) for i in range(50)]
    assert RangeTest(lrs, smoothed, smoothed).suggestion == pytest.approx(lrs[20], rel=0.01)
    rising = [float(i) for i in range(50)]
    assert RangeTest(lrs, rising, rising).suggestion is None


@pytest.mark.parametrize(
    "settings",
    [
        ("trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.01", "optimizer.momentum=0.9"),
        ("optimizer=lbfgs", "data.batch_size=64"),
        ("trainer.precision=64-true", "regularizer=l2", "augmentation=mixup"),
        ("trainer.accumulate_grad_batches=4",),
    ],
    ids=["accumulated and clipped", "lbfgs", "double", "accumulated"],
)
def test_steps_of_lr_find_are_those_of_a_run(
    compose: Compose, run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    """At a constant lr, its losses are those of the run's first steps."""
    settings = (*SMALL, "optimizer=sgd", *settings, "trainer.max_epochs=1", "lr=0.5", "test=false")
    config = compose(*settings)
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    module = build.classifier(config, data)
    assert isinstance(module, GradientClassifier)
    found = range_test(module, data, build.place(config), 0.5, 0.5, 4)

    losses: list[float] = []
    train = GradientClassifier._train

    def noted(module: GradientClassifier, batch: TrainingBatch, *more: Any, **options: Any) -> TrainedBatch:
        trained = train(module, batch, *more, **options)
        if module._trainer is not None:  # else it is the dry run's copy
            losses.append(float(trained.loss))
        return trained

    monkeypatch.setattr(GradientClassifier, "_train", noted)
    run_train(*settings, "trainer.steps_per_execution=3")
    window = config.trainer.accumulate_grad_batches
    expected = [sum(losses[i : i + window]) / window for i in range(0, 4 * window, window)]
    assert found.losses == pytest.approx(expected, rel=1e-6)
    assert abs(found.losses[0] - found.losses[3]) > 1e-3


def test_lr_find_refuses(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"lr_find\.max_lr=1e-07: must be above lr_find\.min_lr=1e-06"):
        config = lr_config(compose)
        config.lr_find.max_lr = 1e-7
        check(config)
    with pytest.raises(ConfigError, match="learns without a gradient, so it has no lr to find"):
        lr_find(lr_config(compose, "model=nearest_mean"), [])
    with pytest.raises(ConfigError, match=r"module=lithydra\.models\.gan\.GAN: a module of one's own has its own step"):
        lr_find(lr_config(compose, "module=gan"), [])


def test_comparing_shows_differences_metrics_and_curves(
    run_train: RunTrain, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs = [run_train(*SMALL), run_train(*SMALL, "optimizer=sgd", "lr=0.05")]
    moved = runs[1].path.rename(tmp_path / "1,lr=0.05,it's")
    capsys.readouterr()
    typed = ["compare.py", str(runs[0].path), str(moved), f"output={tmp_path / '[red]curves.png'}"]
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit) as ended:
        cli.main("compare")
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "") and (tmp_path / "[red]curves.png").exists()
    assert f"curves         {tmp_path}/[red]curves.png\n" in out
    rows = [[c.strip() for c in re.split("[│┃]", line)[1:-1]] for line in out.splitlines() if line[:1] in ("│", "┃")]
    names, first, second = (dict(zip(rows[0], row, strict=True)) for row in rows[:3])
    settings = {key for key in names if key not in ("run", "foreach")}
    assert {"optimizer", "lr"} <= settings and not settings & {"dir", "name", "optimizer.lr", "data.dir"}
    assert [(row["run"], row["optimizer"], row["lr"]) for row in (first, second)] == [
        ("1", "Adam", "0.001"),
        (moved.name, "SGD", "0.05"),
    ]
    metrics = [RunDir(path).read_status()["metrics"]["test/acc"] for path in (runs[0].path, moved)]
    assert [row[-4] for row in rows[-2:]] == [f"{value:.4f}" for value in metrics]


def test_comparing_refuses_what_is_no_run(tmp_path: Path, run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"runs=.*/nowhere: no such directory"):
        compare(settings("compare", tmp_path, f"runs=[{tmp_path}/nowhere]"))
    run = run_train(*SMALL)
    with pytest.raises(ConfigError, match="at least two different runs are compared"):
        compare(settings("compare", tmp_path, f"runs=[{run.path},{run.path}/../1]"))


def test_reproduced_run_is_equal_bit_for_bit(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = ("model.dropout=0.2", "augmentation=affine", "seed=3")
    run = run_train("data.limit=300", "trainer.max_epochs=2", "callbacks=none", *random)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    torch.manual_seed(99)
    found = reproduce_run(settings("reproduce_run", tmp_path, f"run={run.path}", f"paths.data={data_dir}"))
    again = RunDir(found["again"])
    assert "Bit for bit equal: the metrics of 2 epochs" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before
    assert list((again.path / "tensorboard").iterdir())
    assert again.path != run.path and again.read_status()["metrics"] == run.read_status()["metrics"]


def test_a_run_that_cannot_be_repeated_says_what_differs(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_train(*SMALL)
    origin = json.loads(run.provenance.read_text())
    origin["packages"]["torch"] = "0.1"
    run.provenance.write_text(json.dumps(origin))
    config = run.config.read_text()
    run.config.write_text(config.replace("seed: 0", "seed: 1"))  # stands for whatever changed
    with pytest.raises(
        LithydraError, match=r"not equal to .* in train/loss from epoch 1.*the last weights; see the tab"
    ):
        reproduce_run(settings("reproduce_run", tmp_path, f"run={run.path}", f"paths.data={data_dir}"))
    said = capsys.readouterr().out
    assert "packages.torch" in said and "0.1" in said


def test_only_what_can_matter_counts_as_a_difference() -> None:
    before = {"command": ["a"], "git": {"commit": "1", "diff": "x\ny"}, "hardware": {"torch_threads": 1}}
    after = {"command": ["b"], "git": {"commit": "1", "diff": ""}, "hardware": {"torch_threads": 2}}
    assert differences_of_origin(before, after) == {"git.diff": ("2 lines", ""), "hardware.torch_threads": ("1", "2")}


def test_reproducing_an_unfinished_run_is_refused(run_train: RunTrain, tmp_path: Path) -> None:
    run = run_train(*SMALL, *QUIET)
    run.update_status(state="interrupted")
    with pytest.raises(ConfigError, match=r"did not finish \(state interrupted\)"):
        reproduce_run(settings("reproduce_run", tmp_path, f"run={run.path}"))
