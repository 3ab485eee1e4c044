"""Transfer learning: which weights are taken over, what is frozen, and that a run needs its source only to start."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from conftest import CONF, Compose, RunTrain, _compose, checkpoint, weights
from killing import SignalAt, differences, in_child, outcome
from lithydra.callbacks.model_summary import summary_table
from lithydra.checks.config import check
from lithydra.errors import ConfigError, DivergedError
from lithydra.run.directory import RunDir
from lithydra.training import build, transfer
from lithydra.training.engine import GradientClassifier
from lithydra.training.loading import load
from lithydra.training.resuming import resumed
from lithydra.training.train import train

NET = ("model=cnn", "model.channels=[4,6]", "model.batch_norm=true", "callbacks=none", "logger=none")
SOURCE = (*NET, "data.classes=[0,1,2,3,4]", "data.limit=200", "trainer.max_epochs=1", "test=false")
TARGET = (*NET, "data.classes=[5,6,7]", "data.limit=160", "data.batch_size=16", "trainer.max_epochs=2")

Build = Callable[..., GradientClassifier]


@pytest.fixture(scope="module")
def source(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run on five of the digits."""
    outputs = tmp_path_factory.mktemp("source")
    config, choices = _compose(*SOURCE, f"run={outputs / 'run'}", data_dir=data_dir, outputs=outputs)
    train(config, choices, [])
    return RunDir(outputs / "run")


@pytest.fixture
def built(compose: Compose) -> Build:
    """The classifier that the settings give, before training."""

    def make(*settings: str) -> GradientClassifier:
        config = compose(*settings)
        check(config)
        torch.manual_seed(config.seed)
        module = build.classifier(config, build.data(config))
        assert isinstance(module, GradientClassifier)
        return module

    return make


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith("net.") and "head" not in key}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def test_backbone_is_taken_over_and_the_head_is_new_where_the_number_of_classes_differs(
    source: RunDir, built: Build
) -> None:
    taken = built(*TARGET, f"init.from={source.path}").state_dict()
    assert equal(backbone(taken), backbone(weights(source)))
    assert taken["net.head.weight"].shape == (3, 24)
    assert equal(taken, built(*TARGET, f"init.from={source.last}").state_dict())  # the seed decides the head


@pytest.mark.parametrize(("head", "kept"), [("auto", True), ("keep", True), ("replace", False)])
def test_head_is_kept_or_replaced_as_one_says(source: RunDir, built: Build, head: str, kept: bool) -> None:
    other = ("data.classes=[9,8,7,6,5]", f"init.from={source.path}", f"init.head={head}")
    taken = built(*TARGET, *other).state_dict()
    assert torch.equal(taken["net.head.weight"], weights(source)["net.head.weight"]) is kept


def test_what_was_taken_over_is_told(source: RunDir, built: Build, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "lithydra"):
        built(*TARGET, f"init.from={source.path}")
        built(*TARGET, "data.classes=[9,8,7,6,5]", f"init.from={source.path}")
    assert caplog.messages[0].endswith("14 of 16 tensors taken over, the head is new")
    assert "16 of 16 tensors taken over, the head too, though it was trained for other classes" in caplog.messages[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("model.channels=[4,8]",), r"layer features\.1\.0 does not fit: its weight is 6 x 4 x 3 x 3 there and 8 x 4"),
        (("model.channels=[4,6,7]",), r"layer features\.2\.0 does not fit: its weight is missing in CNN"),
        (("model.channels=[4]",), r"layer features\.1\.0 of CNN is not in CNN"),
        (("model=mlp", "model.hidden=[10]"), r"layer hidden\.0\.0 does not fit: its weight is missing in CNN"),
        (
            ("init.head=keep",),
            r"layer head does not fit: .* 5 x 24 there and 3 x 24 here; init\.head=replace starts it",
        ),
        (("init.freeze=[feature]",), r"init\.freeze=feature: no layer has this name; the layers are features\.0\.0, "),
        (("init.freeze=[features,head]",), r"init\.freeze=\[features,head\]: nothing is left to train"),
        (("model=nearest_mean",), r"init: this model learns from the data's statistics"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_its_layer(
    source: RunDir, compose: Compose, settings: tuple[str, ...], message: str
) -> None:
    groups = [setting for setting in settings if setting.startswith("model=")]
    net = TARGET if not groups else [setting for setting in TARGET if not setting.startswith("model")]
    config = compose(*net, f"init.from={source.path}", *settings)
    with pytest.raises(ConfigError, match=message) as refusal:
        build.classifier(config, build.data(config))
    assert "\n" not in str(refusal.value)


def test_frozen_backbone_stays_bit_for_bit_with_its_batch_norm(source: RunDir, run_train: RunTrain) -> None:
    run = run_train(*TARGET, f"init.from={source.path}", "init.freeze=backbone", "augmentation=affine")
    assert equal(backbone(weights(run)), backbone(weights(source)))
    (group,) = checkpoint(run.last)["optimizer_states"][0]["param_groups"]
    assert len(group["params"]) == 2
    free = run_train(*TARGET, f"init.from={source.path}")
    changed = [key for key, value in backbone(weights(free)).items() if not torch.equal(value, weights(source)[key])]
    assert len(changed) == len(backbone(weights(free)))


def test_only_the_layers_that_are_named_are_frozen(source: RunDir, built: Build) -> None:
    module = built(*TARGET, f"init.from={source.path}", "init.freeze=[features.0,'*.1.weight']")
    frozen = [name for name, p in module.net.named_parameters() if not p.requires_grad]
    assert frozen == [
        *(f"features.0.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")),
        "features.1.1.weight",
    ]
    first, second = (m for m in module.train().net.modules() if isinstance(m, nn.BatchNorm2d))
    assert not first.training and second.training  # a norm of which a part trains is not frozen
    assert module.net.training and not module.eval().net.training


def test_frozen_norms_stay_so_where_lightning_replaces_them(source: RunDir, built: Build) -> None:
    module = built(*TARGET, f"init.from={source.path}", "init.freeze=[features.0]")
    nn.SyncBatchNorm.convert_sync_batchnorm(module)  # as trainer.sync_batchnorm=true
    norms = [m for m in module.train().net.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert [norm.training for norm in norms] == [False, True]


def test_norm_without_parameters_goes_with_what_it_stands_in() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)),
        nn.Linear(2, 2),
    )
    transfer.freeze(net, ["0"])
    assert transfer.frozen_norms(net) == ["0.1"]


def test_summary_counts_what_is_frozen(source: RunDir, built: Build) -> None:
    table = summary_table(built(*TARGET, f"init.from={source.path}", "init.freeze=backbone").net, {})
    assert table.caption == "75 parameters to train, 282 frozen"
    counts = list(table.columns[3].cells)
    assert "frozen 40" in counts and counts[-1] == "75"


SCHEDULERS = sorted(path.stem for path in CONF.glob("scheduler/*.yaml"))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_keeps_the_factor_between_the_lrs(name: str, source: RunDir, built: Build) -> None:
    module = built(*TARGET, f"init.from={source.path}", "init.backbone_lr_factor=0.1", f"scheduler={name}", "lr=0.5")
    optimizer, scheduler = module.make_optimizer_and_scheduler(9)
    head, backbone = optimizer.param_groups
    assert len(head["params"]) == 2 and len(head["params"]) + len(backbone["params"]) == len(module.trained)
    rates = []
    for _ in range(16):
        rates.append((head["lr"], backbone["lr"]))
        optimizer.step()
        if scheduler is not None:
            scheduler.step(*([0.0] if name == "plateau" else []))  # pyright: ignore[reportArgumentType]
    assert all(slow == pytest.approx(fast / 10) for fast, slow in rates)
    assert len(set(rates)) > 1 or name == "none"


@pytest.mark.parametrize("name", sorted({path.stem for path in CONF.glob("optimizer/*.yaml")} - {"lbfgs"}))
def test_every_optimizer_takes_two_groups(name: str, source: RunDir, built: Build) -> None:
    module = built(*TARGET, f"init.from={source.path}", "init.backbone_lr_factor=0.01", f"optimizer={name}", "lr=0.1")
    optimizer, _ = module.make_optimizer_and_scheduler(9)
    before = [p.detach().clone() for p in module.trained]
    module.loss(module(torch.rand(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.001])
    assert any(not torch.equal(p, q) for p, q in zip(module.trained, before, strict=True))


def test_plateau_has_the_factor_in_its_smallest_lr_too(source: RunDir, built: Build) -> None:
    settings = ("init.backbone_lr_factor=0.1", "scheduler=plateau", "scheduler.min_lr=0.2", "lr=0.5")
    optimizer, scheduler = built(*TARGET, f"init.from={source.path}", *settings).make_optimizer_and_scheduler(9)
    for _ in range(20):
        scheduler.step(0.0)  # pyright: ignore
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])


def test_onecycle_starts_each_group_from_its_own_lr_through_a_run(source: RunDir, run_train: RunTrain) -> None:
    settings = ("scheduler=onecycle", "init.backbone_lr_factor=0.1", "lr=0.01")
    run = run_train(*TARGET, f"init.from={source.path}", *settings)
    head, backbone = checkpoint(run.last)["optimizer_states"][0]["param_groups"]
    assert (head["max_lr"], backbone["max_lr"]) == pytest.approx((0.01, 0.001))
    assert backbone["min_lr"] == pytest.approx(0.001 / 25 / 1e4)
    assert backbone["lr"] == pytest.approx(head["lr"] / 10)


def test_killed_run_resumes_bit_for_bit_without_its_source(source: RunDir, data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source.path, copy)
    overrides = (
        *(*TARGET, f"init.from={copy}", "init.freeze=[features.0]", "init.backbone_lr_factor=0.2"),
        *("scheduler=onecycle", "trainer.steps_per_execution=4", "checkpoint.every_n_steps=3", "model.dropout=0.3"),
    )

    def run(*overrides: str) -> None:
        config, choices = _compose(*overrides, data_dir=data_dir, outputs=tmp_path)
        check(config)
        if config.resume:
            config = resumed(RunDir.open(Path(config.resume), "resume"), config, list(overrides))
            check(config)
        train(config, choices, list(overrides))

    def killed() -> None:
        SignalAt("after optimizer step", 12).install()
        run(*overrides, f"run={tmp_path / 'killed'}")

    log = tmp_path / "log"
    assert in_child(lambda: run(*overrides, f"run={tmp_path / 'whole'}"), log) == 0, log.read_text()
    assert in_child(killed, log) == -9
    shutil.rmtree(copy)
    assert in_child(lambda: run(f"resume={tmp_path / 'killed'}"), log) == 0, log.read_text()
    assert differences(outcome(RunDir(tmp_path / "whole")), outcome(RunDir(tmp_path / "killed"))) == []
    assert load(tmp_path / "killed").net is not None  # the checkpoint is enough by itself


def test_chunks_diverge_where_single_steps_do_with_two_groups(source: RunDir, run_train: RunTrain) -> None:
    settings = ("init.freeze=[features.0]", "init.backbone_lr_factor=0.5", "optimizer=sgd", "lr=1e18")
    messages = []
    for steps in (1, 8):
        with pytest.raises(DivergedError) as caught:
            run_train(*TARGET, f"init.from={source.path}", *settings, f"trainer.steps_per_execution={steps}")
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "lr 1e+18" in messages[0]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_head_is_the_last_layer_with_weights(name: str, head: str) -> None:
    with torch.device("meta"):
        net = models.get_model(name, num_classes=5)
    assert transfer.head_name(net) == head
    assert len(net.get_submodule(head).weight) == 5  # pyright: ignore[reportArgumentType]
