from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import QUIET, RunTrain, _compose, assert_equal, weights
from lithydra.augmentations.chain import Chain
from lithydra.callbacks.layer_statistics import measure
from lithydra.errors import ConfigError
from lithydra.methods.base import Parts
from lithydra.methods.supervised import Supervised
from lithydra.models.mlp import MLP
from lithydra.normalization import Normalization
from lithydra.run.directory import RunDir
from lithydra.training import build
from lithydra.training.engine import GradientClassifier
from lithydra.training.resuming import resumed
from lithydra.training.train import train

WITH = ("callbacks=layer_statistics", "logger=none", "data.limit=200", "model.hidden=[12,12]", "model.dropout=0.2")


def classifier(net: nn.Module) -> GradientClassifier:
    unused: Any = None
    method = Supervised()
    names = ["0", "1", "2"]
    method.bind(Parts(net, nn.CrossEntropyLoss(), Normalization([0.0], [1.0]), Chain(), (1, 1, 3), names, load=unused))
    return GradientClassifier(method, 3, {}, optimization=unused)


def stacked(activation: type[nn.Module]) -> GradientClassifier:
    """Three layers of weights that change nothing, each followed by the activation."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(3, 3, bias=False), activation())]
    for layer in layers[::2]:
        nn.init.eye_(layer.weight)  # pyright: ignore[reportArgumentType]
    return classifier(nn.Sequential(nn.Flatten(), *layers))


def values(rows: list[dict], quantity: str) -> list[float]:
    return [row["value"] for row in rows if row["quantity"] == quantity]


def test_three_sigmoids_in_a_row_squash_everything_to_two_thirds() -> None:
    images, labels = 4 * torch.randn(200, 1, 1, 3, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 3
    sigmoid, relu = (measure(stacked(kind), images, labels) for kind in (nn.Sigmoid, nn.ReLU))
    assert values(sigmoid, "mean")[-1] == pytest.approx(0.66, abs=0.015)
    first, second, third = values(sigmoid, "std")
    assert first > 4 * second > 16 * third
    assert values(relu, "std")[0] == pytest.approx(values(relu, "std")[2])


def test_gradient_of_stacked_sigmoids_vanishes_towards_the_input() -> None:
    ratios = {}
    for activation in ("sigmoid", "relu"):
        torch.manual_seed(0)
        net = MLP(in_shape=(1, 8, 8), num_classes=3, hidden=[30] * 6, activation=activation)
        gradients = values(measure(classifier(net), torch.rand(60, 1, 8, 8), torch.arange(60) % 3), "gradient")
        ratios[activation] = gradients[0] / gradients[-1]
    assert ratios["sigmoid"] < 1e-4 < ratios["relu"]


def test_gradient_is_that_of_the_loss_and_nothing_changes() -> None:
    torch.manual_seed(0)
    module = classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))
    images, labels = torch.rand(20, 1, 2, 2), torch.arange(20) % 3
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = torch.get_rng_state()
    rows = measure(module, images, labels)
    assert_equal(dict(module.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert module.training and module.net[2].training and all(p.grad is None for p in module.parameters())  # pyright: ignore
    module.eval()
    module.loss(module(images), labels).backward()
    expected = [module.net[i].weight.grad.square().mean().sqrt().item() for i in (1, 4)]  # pyright: ignore
    assert values(rows, "gradient") == pytest.approx(expected)
    assert values(rows, "weight_std") == pytest.approx([module.net[i].weight.std().item() for i in (1, 4)])  # pyright: ignore
    assert [row["layer"] for row in rows] == ["1", "4", "1", "4", "3", "3"]


def test_run_writes_layers_csv_and_trains_as_without(run_train: RunTrain) -> None:
    run = run_train(*WITH, "trainer.max_epochs=2")
    rows = run.read_layers()
    assert {row["epoch"] for row in rows} == {"0", "1", "2"} and len(rows) == 3 * (3 + 3 + 2 * 2)
    metrics = run.read_status()["metrics"]
    names = ("gradient_ratio", "activation_std", "weight_std")
    assert {f"layers/{start}{name}" for start in ("", "start_") for name in names} <= metrics.keys()
    first, *_, last = [float(row["value"]) for row in rows if row["epoch"] == "0" and row["quantity"] == "gradient"]
    assert metrics["layers/start_gradient_ratio"] == pytest.approx(first / last)
    without = run_train(*QUIET, *WITH[2:], "trainer.max_epochs=2")
    assert_equal(weights(run), weights(without))


def test_resumed_run_has_each_epoch_once(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    whole, parts = run_train(*WITH, "trainer.max_epochs=3"), run_train(*WITH, "trainer.max_epochs=2")
    overrides = [f"resume={parts.path}", "trainer.max_epochs=3"]
    composed, choices = _compose(*overrides, data_dir=data_dir, outputs=tmp_path)
    train(resumed(parts, composed, overrides), choices, overrides)
    assert RunDir(parts.path).read_layers() == whole.read_layers()
    assert parts.read_status()["metrics"] == whole.read_status()["metrics"]


def test_frozen_layers_are_left_out(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    source = run_train(*QUIET, *WITH[2:], "trainer.max_epochs=1")
    settings = (f"init.from={source.path}", "init.freeze=[hidden.0]", *WITH)
    config, _ = _compose(*settings, data_dir=data_dir, outputs=tmp_path)
    data = build.data(config)
    module = build.classifier(config, data)
    assert isinstance(module, GradientClassifier)
    rows = measure(module, torch.rand(4, 1, 8, 8), torch.arange(4))
    assert [row["layer"] for row in rows if row["quantity"] == "gradient"] == ["hidden.1.0", "head"]


def test_a_net_that_learns_without_gradients_is_refused(run_train: RunTrain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^callbacks\.layer_statistics: measures gradients, and NearestMean learns"):
        run_train(*WITH[:3], "model=nearest_mean")
    assert not (tmp_path / "runs").exists()
