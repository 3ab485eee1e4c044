"""What several test files share: composed configs, small data, and whole runs in this process."""

import copy
import logging
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor

from lithydra.checks.config import check
from lithydra.data.digits import Digits
from lithydra.run.directory import TIMES, RunDir
from lithydra.training.train import train
from promises import pytest_collection_modifyitems, pytest_configure, pytest_terminal_summary

pytest_plugins = ["killing", "strangers", "ranks", "trained"]  # their fixtures

__all__ = ["pytest_collection_modifyitems", "pytest_configure", "pytest_terminal_summary"]  # hooks

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"

QUIET = ("callbacks=none", "logger=none")
SMALL = ("data.limit=300", "trainer.max_epochs=2", *QUIET)

Compose = Callable[..., DictConfig]
RunTrain = Callable[..., RunDir]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_settings_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's environment must not move the tests' data and outputs; the command line leaves the last one behind."""
    for name in ("LITHYDRA_DATA", "LITHYDRA_OUTPUTS", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the digits in it."""
    folder = tmp_path_factory.mktemp("data")
    Digits(dir=str(folder), name="digits", seed=0, batch_size=1, eval_batch_size=1, val_fraction=0).read()
    return folder


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 + 40 color images of 16x16 pixels in three classes that a linear net tells apart."""
    path = tmp_path_factory.mktemp("npz") / "tiny.npz"
    write_npz(path, num_classes=3, shape=(16, 16, 3), num_train=120, num_test=40)
    return path


def write_npz(path: Path, *, num_classes: int, shape: tuple[int, ...], num_train: int, num_test: int) -> None:
    """Images of noise around one pattern a class."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(60, 196, (num_classes, *shape))
    labels = np.arange(num_train + num_test) % num_classes
    images = (patterns[labels] + generator.integers(-50, 51, (len(labels), *shape))).astype(np.uint8)
    train, test = slice(num_train), slice(num_train, None)
    np.savez(path, x_train=images[train], y_train=labels[train], x_test=images[test], y_test=labels[test])


@pytest.fixture
def compose(data_dir: Path, tmp_path: Path) -> Compose:
    """`compose("lr=0.1", …)` is the config that the command line gives, for the CPU and below tmp_path."""
    return lambda *settings: _compose(*settings, data_dir=data_dir, outputs=tmp_path / "outputs")[0]


def _compose(*settings: str, data_dir: Path, outputs: Path) -> tuple[DictConfig, dict[str, str]]:
    """The config, and the option that was taken in each group."""
    given = {setting.partition("=")[0] for setting in settings}
    defaults = {"paths.data": data_dir, "paths.outputs": outputs, "accelerator": "cpu"}
    settings = (*(f"{key}={value}" for key, value in defaults.items() if key not in given), *settings)
    groups = tuple(setting for setting in settings if (CONF / setting.partition("=")[0]).is_dir())
    config, choices = copy.deepcopy(_compose_groups(groups))
    for override in OverridesParser.create().parse_overrides([s for s in settings if s not in groups]):
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=override.is_add())
    return config, choices


@cache
def _compose_groups(groups: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
    """Hydra takes as long for it as a small run takes to train: once for every choice of groups is enough."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=list(groups), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config["hydra"]
    return config, choices


@pytest.fixture
def run_train(data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[RunTrain]:
    """`run_train("lr=0.1", …)` is `python train.py lr=0.1 …` in this process; the runs are tmp_path/runs/1, 2, …"""
    numbers = count(1)

    def run(*settings: str) -> RunDir:
        directory = tmp_path / "runs" / str(next(numbers))
        settings = (*settings, f"run={directory}")
        config, choices = _compose(*settings, data_dir=data_dir, outputs=tmp_path / "outputs")
        check(config)
        train(config, choices, list(settings))
        return RunDir(directory)

    with caplog.at_level(logging.INFO, "lithydra"):
        yield run


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def weights(run: RunDir) -> dict[str, Tensor]:
    return checkpoint(run.last)["state_dict"]


def rows(run: RunDir) -> list[dict[str, str]]:
    """metrics.csv without the column that differs from run to run."""
    return [{key: value for key, value in row.items() if key not in TIMES} for row in run.read_metrics()]


def assert_equal(first: Any, second: Any) -> None:
    """Nested state, bit for bit."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    else:
        assert first == second
