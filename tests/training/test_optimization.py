"""Groups of parameters: who is in which, with which options; and optimizers through whole runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import open_dict
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchvision import models

from conftest import CONF, SMALL, Compose, RunTrain, assert_equal, checkpoint, rows, weights
from lithydra.checks.config import check
from lithydra.errors import ConfigError
from lithydra.optimizers import Muon
from lithydra.training import build
from lithydra.training.engine import GradientClassifier
from lithydra.training.optimization import norms
from lithydra.training.transfer import freeze

NET = ("model=cnn", "model.channels=[4,6]", "model.batch_norm=true", "callbacks=none", "logger=none")
STEM = "+optimizer_groups.stem={parameters: [features.0.*], lr_factor: 0.1}"

Made = tuple[dict[str, dict[str, Any]], GradientClassifier, Optimizer, LRScheduler | None]
Make = Callable[..., Made]


@pytest.fixture
def make(compose: Compose) -> Make:
    """The options of each parameter, by its name in the net; the classifier, its optimizer and its scheduler."""

    def made(*settings: str) -> Made:
        config = compose(*NET, *settings)
        check(config)
        module = build.classifier(config, build.data(config))
        assert isinstance(module, GradientClassifier)
        optimizer, scheduler = module.make_optimizer_and_scheduler(9)
        options = {id(p): {**group, "params": None} for group in optimizer.param_groups for p in group["params"]}
        named = {name: options[id(p)] for name, p in module.net.named_parameters() if p.requires_grad}
        assert len(named) == sum(len(group["params"]) for group in optimizer.param_groups)
        return named, module, optimizer, scheduler

    return made


def having(named: dict[str, dict[str, Any]], key: str, value: object) -> set[str]:
    return {name for name, options in named.items() if options.get(key) == value}


LAYERS = [f"features.{n}.{part}" for n in (0, 1) for part in (0, 1)] + ["head"]
BIASES = {f"{layer}.bias" for layer in LAYERS}
NORMS = {f"features.{n}.1.{kind}" for n in (0, 1) for kind in ("weight", "bias")}


def test_without_groups_the_optimizer_gets_the_parameters_alone(make: Make) -> None:
    _, module, optimizer, _ = make("optimizer=adamw", "optimizer_groups=none")
    (group,) = optimizer.param_groups
    assert "lr_factor" not in group and len(group["params"]) == len(module.trained) == 10
    assert all(p is q for p, q in zip(group["params"], module.trained, strict=True))


def test_norms_and_biases_do_not_decay(make: Make) -> None:
    named, *_ = make("optimizer=adamw", "optimizer_groups=no_decay")
    assert having(named, "weight_decay", 0.0) == BIASES | NORMS
    assert having(named, "weight_decay", 0.01) == named.keys() - BIASES - NORMS
    assert having(named, "lr", 0.001) == named.keys()


def test_weights_that_do_not_decay_stand_still_without_a_gradient(make: Make) -> None:
    settings = ("optimizer=sgd", "lr=1", "optimizer.weight_decay=0.5", "optimizer_groups=no_decay")
    _, module, optimizer, _ = make(*settings)
    before = {name: p.detach().clone() for name, p in module.net.named_parameters()}
    for p in module.trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in module.net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 if name in BIASES | NORMS else 0.5))


def test_the_first_group_that_matches_wins(make: Make) -> None:
    named, *_ = make("optimizer=adamw", "optimizer_groups=no_decay", STEM)
    assert having(named, "lr", pytest.approx(0.0001)) == {"features.0.0.weight"}
    first = STEM.replace("stem", "before").replace("features.0.*", "features.0")
    named, *_ = make("optimizer=adamw", first, "+optimizer_groups.after={parameters: [biases], weight_decay: 0.5}")
    assert having(named, "lr_factor", 0.1) == {name for name in named if name.startswith("features.0.")}
    assert having(named, "weight_decay", 0.5) == BIASES - having(named, "lr_factor", 0.1)


def test_factors_multiply_and_the_first_group_has_lr_itself(make: Make) -> None:
    """The lr that is logged is the first group's."""
    named, module, optimizer, _ = make("optimizer=sgd", "lr=0.5", "init.backbone_lr_factor=0.2", STEM)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.01, 0.1])
    assert having(named, "lr_factor", 1.0) == {"head.weight", "head.bias"}
    module.prepare(optimizer)
    assert module.lr == 0.5
    _, _, optimizer, _ = make("optimizer=sgd", "lr=0.5", STEM)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])


def test_frozen_parameters_are_in_no_group(make: Make) -> None:
    _, module, *_ = make("optimizer=adamw", "optimizer_groups=no_decay", STEM)
    freeze(module.net, ["features.0"])  # all that the group `stem` would have
    optimizer, _ = module.make_optimizer_and_scheduler(9)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]
    assert all(p.requires_grad for group in optimizer.param_groups for p in group["params"])


SCHEDULERS = sorted(path.stem for path in CONF.glob("scheduler/*.yaml"))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_keeps_the_factors(name: str, make: Make) -> None:
    settings = ("optimizer=muon", "lr=0.5", f"scheduler={name}", "optimizer_groups=no_decay", STEM)
    _, _, optimizer, scheduler = make(*settings)
    factors = [group["lr_factor"] for group in optimizer.param_groups]
    assert factors[0] == 1 and 0.1 in factors
    for _ in range(16):
        assert [group["lr"] / factor for group, factor in zip(optimizer.param_groups, factors, strict=True)] == (
            pytest.approx([optimizer.param_groups[0]["lr"]] * len(factors))
        )
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([0.0] if name == "plateau" else []))  # pyright: ignore[reportArgumentType]


def test_muon_leaves_the_head_to_adamw_unless_a_group_says_otherwise(make: Make) -> None:
    named, _, optimizer, _ = make("optimizer=muon")
    assert isinstance(optimizer, Muon)
    assert having(named, "matrices", False) == {"head.weight", "head.bias"}
    named, *_ = make("optimizer=muon", "+optimizer_groups.all={parameters: [head], matrices: true}")
    assert having(named, "matrices", False) == set()
    named, *_ = make("optimizer=muon", "+optimizer_groups.stem={parameters: [features.0], matrices: false}")
    assert {"features.0.0.weight", "head.weight"} <= having(named, "matrices", False)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny", "swin_v2_t"])
def test_all_of_torchvisions_norms_are_found(name: str) -> None:
    with torch.device("meta"):
        net = models.get_model(name, num_classes=5)
    kinds = (nn.BatchNorm2d, nn.LayerNorm)
    expected = {id(p) for layer in net.modules() if isinstance(layer, kinds) for p in layer.parameters()}
    assert {id(p) for p in norms(net)} == expected and expected


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            "{parameters: [features.9], lr_factor: 0.1}",
            r"\.parameters=features\.9: no layer has this name; the layers are features\.0\.0, .* Did you mean ",
        ),
        ("{parameters: [norm], lr_factor: 0.1}", r"\.parameters=norm: no layer .* Did you mean norms\?"),
        ("{parameters: [biases], weigt_decay: 0}", r"\.weigt_decay=0: AdamW takes .* Did you mean weight_decay\?"),
        ("{parameters: [biases], momentum: 0}", r"\.momentum=0: AdamW takes params, lr, betas, "),
    ],
)
def test_what_neither_net_nor_optimizer_has_is_refused_before_training(
    group: str, message: str, run_train: RunTrain, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"^optimizer_groups\.mine{message}") as caught:
        run_train(*NET, "optimizer=adamw", f"+optimizer_groups.mine={group}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_run_from_before_there_were_groups_trains(compose: Compose) -> None:
    config = compose(*NET)
    with open_dict(config):
        del config.optimizer_groups
    module = build.classifier(config, build.data(config))
    assert isinstance(module, GradientClassifier)
    assert len(module.make_optimizer_and_scheduler(9)[0].param_groups) == 1


# In the least friendly company: convolutions in channels_last, autocast, accumulation, clipping, groups with factors.
CROWD = (
    *("optimizer=muon", "model=cnn", "model.channels=[4,6]", "model.batch_norm=true", "model.dropout=0.3"),
    *("trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.5"),
    *("scheduler=onecycle", "optimizer_groups=no_decay", STEM),
)
OPTIMIZERS = {
    "muon": ("optimizer=muon",),
    "muon in company": CROWD,
    "groups": ("optimizer=sgd", "optimizer.momentum=0.9", "optimizer.weight_decay=0.1", "optimizer_groups=no_decay"),
    "schedule_free": (
        "optimizer=adamw",
        "optimizer.betas=[0.0,0.999]",
        "average=schedule_free",
        "model.batch_norm=true",
    ),
    **{name: (f"optimizer={name}",) for name in ("nadam", "radam", "adafactor")},
}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_steps_per_execution_changes_nothing(run_train: RunTrain, settings: tuple[str, ...]) -> None:
    one, many = (run_train(*SMALL, *settings, f"trainer.steps_per_execution={k}") for k in (1, 16))
    assert_equal(weights(many), weights(one))
    assert_equal(checkpoint(many.last)["optimizer_states"], checkpoint(one.last)["optimizer_states"])
    assert rows(many) == rows(one)


def test_a_group_with_a_factor_of_zero_is_not_trained(make: Make) -> None:
    named, *_ = make("optimizer=sgd", "+optimizer_groups.head={parameters: [head], lr_factor: 0}")
    assert having(named, "lr", 0.0) == {"head.weight", "head.bias"}
