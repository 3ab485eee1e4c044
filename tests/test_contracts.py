"""Every YAML in conf/ composes, passes the checks, builds, trains, and leaves a checkpoint that is enough by itself.

New files are found by themselves; only what needs other settings than its group is named here.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from conftest import CONF, QUIET, Compose, RunTrain, write_npz
from lithydra.checks.config import check
from lithydra.data.base import ImageDataModule
from lithydra.data.torchvision_data import TorchvisionData
from lithydra.errors import ConfigError
from lithydra.models.layers import ACTIVATIONS
from lithydra.run.directory import RunDir
from lithydra.training import build, classifiers
from lithydra.training.classifier import Classifier
from lithydra.training.instantiate import make
from lithydra.training.loading import load
from offered import ALL, FEW_EPOCHS, FEW_STEPS, assert_loss_falls, choices, overrides

PROMISE = "19. Every choice that is offered trains"

HERE = {"gpu": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
SLOW = ("model/alexnet_imagenet",)  # 57 million weights
FALLING = (
    *("optimizer", "optimizer_groups", "scheduler", "regularizer", "loss", "normalization", "augmentation"),
    *("method", "metrics", "average"),
)


@dataclass(frozen=True)
class Trained:
    """What a run leaves in memory and on disk."""

    module: Classifier
    data: ImageDataModule
    start: dict[str, Tensor]  # the state before training
    run: RunDir


Train = Callable[..., Trained]


@pytest.fixture
def trained(run_train: RunTrain, monkeypatch: pytest.MonkeyPatch) -> Train:
    """`run_train` that also hands over the classifier with its last weights, and the data."""
    built: list[tuple[Classifier, ImageDataModule, dict[str, Tensor]]] = []
    real = build.classifier

    def classifier(config: DictConfig, data: ImageDataModule) -> Classifier:
        module = real(config, data)
        built.append((module, data, {name: value.clone() for name, value in module.state_dict().items()}))
        return module

    def run(*settings: str) -> Trained:
        directory = run_train("test=false", *settings)
        return Trained(*built[-1], directory)

    monkeypatch.setattr(build, "classifier", classifier)
    return run


def assert_contract(trained: Trained) -> None:
    """Finite losses; training reaches every parameter; the checkpoint alone gives the same logits bit for bit."""
    losses = [float(row["train/loss"]) for row in trained.run.read_metrics()]
    assert losses and all(map(math.isfinite, losses))
    module = trained.module.cpu().eval()
    state = module.state_dict()
    assert any(not torch.equal(state[name], value) for name, value in trained.start.items())
    for name, parameter in module.named_parameters():
        if module.method.classifies or not name.startswith("net.head."):
            assert not torch.equal(parameter, trained.start[name]), name
        assert parameter.isfinite().all(), name
    assert torch.load(trained.run.last, weights_only=True)["state_dict"].keys() == state.keys()
    images = next(iter(trained.data.test_dataloader()))[0][:20].cpu()
    with torch.no_grad():
        logits = module(images)
        assert logits.isfinite().all()
        assert torch.equal(load(trained.run.path, "last")(images), logits)


@pytest.mark.parametrize("choice", choices("accelerator", "experiment", "variant"))
def test_choice_is_accepted_where_it_can_run(choice: str, compose: Compose) -> None:
    config = compose(*overrides(choice))
    if config.init["from"]:  # a run that another experiment makes
        source = RunDir(Path(config.init["from"]))
        with pytest.raises(ConfigError, match=r"init\.from=.*: no such run directory or checkpoint"):
            check(config)
        source.checkpoints.mkdir(parents=True)
        source.config.touch()
        source.last.touch()
    if config.data.get("path", "") is None:
        with pytest.raises(ConfigError, match=r"data\.path=null: data=image_folder needs data\.path=FOLDER"):
            check(config)
        config.data.path = str(CONF)
    if not HERE.get(config.trainer.accelerator, True):
        with pytest.raises(ConfigError, match=r"accelerator=(gpu|mps|ddp): this machine has no GPU"):
            check(config)
    else:
        check(config)


def test_every_group_is_trained() -> None:
    """A group that is added must be trained below."""
    others = {
        "model",
        "module",
        "data",
        "callbacks",
        "logger",
        "accelerator",
        "debug",
        "trainer",
        "paths",
        "experiment",
        "variant",
    }
    assert {choice.partition("/")[0] for choice in ALL} <= {*FALLING, *others}


@pytest.mark.parametrize("choice", choices(*FALLING))
def test_choice_trains_and_the_loss_falls(choice: str, trained: Train, run_train: RunTrain) -> None:
    settings = overrides(choice)
    if any("TEACHER" in setting for setting in settings):
        teacher = str(run_train(*FEW_EPOCHS).path)
        settings = tuple(setting.replace("TEACHER", teacher) for setting in settings)
    done = trained(*FEW_EPOCHS, *settings)
    assert_contract(done)
    assert_loss_falls(done.run)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_trains_and_the_loss_falls(activation: str, trained: Train) -> None:
    done = trained(*FEW_EPOCHS, f"model.activation={activation}")
    assert_contract(done)
    assert_loss_falls(done.run)


@pytest.mark.parametrize(
    "choice", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in choices("model")]
)
def test_model_trains(choice: str, trained: Train, compose: Compose) -> None:
    settings = (*FEW_STEPS, *overrides(choice), "optimizer=sgd", "lr=0.1")
    assert_contract(trained(*settings, *image_size(compose(*settings))))


@pytest.mark.parametrize("choice", choices("module"))
def test_module_trains(choice: str, run_train: RunTrain) -> None:
    run = run_train(*FEW_EPOCHS, *overrides(choice))
    assert run.read_status()["state"] == "finished" and run.best.exists()
    load(run.path, "last")


def image_size(config: DictConfig) -> tuple[str, ...]:
    """The setting that the net's refusal of the digits names, where it refuses them: it must be large enough."""
    try:
        classifiers.like(config, (1, 8, 8), [str(label) for label in range(10)])
    except ConfigError as error:
        size = re.search(r"data\.image_size=\d+", str(error))
        assert size, error
        return (size.group(),)
    return ()


@pytest.mark.parametrize("choice", SLOW)
def test_large_model_gets_gradients(choice: str, compose: Compose) -> None:
    settings = (*FEW_STEPS, *overrides(choice))
    config = compose(*settings, *image_size(compose(*settings)))
    check(config)
    data = build.data(config)
    module = build.classifier(config, data)
    images, labels = next(iter(data.test_dataloader()))
    loss = module.loss(module(images[:4]), labels[:4])
    loss.backward()
    assert loss.isfinite()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("choice", choices("data"))
def test_data_set_trains(choice: str, trained: Train, compose: Compose, tiny_npz: Path, tmp_path: Path) -> None:
    settings = [choice.replace("/", "="), *stand_in(choice.partition("/")[2], compose, tiny_npz, tmp_path)]
    done = trained("trainer.max_epochs=3", "data.batch_size=32", "callbacks=none", "logger=none", *settings)
    assert_contract(done)
    assert_loss_falls(done.run)
    facts = done.module.record["data"]
    assert facts["num_train"] > facts["num_val"] > 0 and len(facts["class_names"]) == done.data.num_classes


def stand_in(name: str, compose: Compose, tiny_npz: Path, tmp_path: Path) -> list[str]:
    """Settings that let the data set find small data of its own form."""
    if name == "digits":
        return ["data.limit=300"]
    if name == "npz":
        return [f"data.path={tiny_npz}"]
    if name == "image_folder":
        with np.load(tiny_npz) as arrays:
            for number, (image, label) in enumerate(zip(arrays["x_train"], arrays["y_train"], strict=True)):
                path = tmp_path / "images" / f"class_{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
        return [f"data.path={tmp_path / 'images'}", "data.image_size=16"]
    (tmp_path / "data").mkdir()
    settings = [f"paths.data={tmp_path / 'data'}", "data.val_fraction=0.2"]
    module = make(compose(f"data={name}", *settings), "data")
    if not isinstance(module, TorchvisionData):  # a person's own: it makes what it is made of, as it would for a run
        count = len(module.read().y_train)
        return [*settings, f"data.limit={min(count, 300)}"]
    shape = (28, 28) if name.endswith("mnist") else (32, 32, 3)
    size = module.num_classes * 5
    write_npz(module.file, num_classes=module.num_classes, shape=shape, num_train=size, num_test=size)
    return settings


ONE_PROCESS = [choice for choice in choices("accelerator") if "ddp" not in choice]  # the others are in test_ddp


@pytest.mark.parametrize("choice", ONE_PROCESS)
def test_accelerator_trains(choice: str, trained: Train, compose: Compose) -> None:
    if not HERE.get(compose(*overrides(choice)).trainer.accelerator, True):
        return  # refused: see above
    done = trained(*FEW_EPOCHS, *overrides(choice))
    assert_contract(done)
    assert_loss_falls(done.run)


@pytest.mark.parametrize("model", ["cnn", *(pytest.param(m, marks=pytest.mark.slow) for m in ("resnet9", "resnet18"))])
def test_lbfgs_trains_nets_that_ask_for_channels_last(model: str, run_train: RunTrain) -> None:
    run_train(*FEW_STEPS, f"model={model}", "data.image_size=16", "optimizer=lbfgs", "optimizer.max_iter=2")


@pytest.mark.parametrize("choice", choices("callbacks", "trainer", "paths"))
def test_other_group_trains(choice: str, trained: Train) -> None:
    done = trained("data.limit=100", "logger=none", "trainer.max_epochs=2", *overrides(choice))
    assert_contract(done)


def test_early_stopping_stops(run_train: RunTrain) -> None:
    """At a vanishing lr nothing improves after the first epoch."""
    run = run_train("data.limit=200", "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "lr=1e-12")
    assert len(run.read_metrics()) == 2
    assert run.read_status()["state"] == "finished"


LOGGER_FILES = {
    "tensorboard": ["tensorboard/events.out.tfevents.*"],
    "csv": ["csv/metrics.csv"],
    "many": ["tensorboard/events.out.tfevents.*", "csv/metrics.csv"],
    "none": [],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # sqlalchemy's, of what mlflow does
@pytest.mark.parametrize("choice", choices("logger"))
def test_logger_writes_to_the_run_directory(
    choice: str, run_train: RunTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = choice.partition("/")[2]
    if name in ("wandb", "mlflow", "trackio") and find_spec(name) is None:
        pytest.skip(f"{name} is an extra, and not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    run = run_train("data.limit=100", "callbacks=none", "trainer.max_epochs=1", *overrides(choice))
    for pattern in LOGGER_FILES.get(name, []):
        assert list(run.path.glob(pattern))
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "outputs"}


@pytest.mark.parametrize("choice", choices("debug"))
def test_debug_runs_to_the_end_on_the_default_data(choice: str, run_train: RunTrain) -> None:
    status = run_train(*QUIET, *overrides(choice)).read_status()
    assert status["state"] == "finished"
    if choice == "debug/overfit":
        assert status["metrics"]["train/acc"] == 1.0
