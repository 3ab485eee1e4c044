"""Loggers, a person's own too, are told of the run: its name, directory, settings and metrics."""

import inspect
import os
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock, Timeout
from lightning.pytorch.loggers import Logger, MLFlowLogger

from conftest import SMALL, Compose, RunTrain
from lithydra.callbacks.mlflow_logger import LockedMLFlowLogger
from lithydra.checks import machine
from lithydra.checks.config import check
from lithydra.errors import ConfigError


class Own(Logger):
    """Keeps what it is given."""

    def __init__(self, save_dir: str, name: str, dir: str, run_name: str = "") -> None:
        super().__init__()
        self.made_with = {"save_dir": save_dir, "dir": dir, "name": name, "run_name": run_name}
        self.settings: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        LOGGERS.append(self)

    @property
    def name(self) -> str:
        return "own"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.settings |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics |= metrics


LOGGERS: list[Own] = []


@pytest.fixture(autouse=True)
def no_loggers() -> None:
    LOGGERS.clear()


def test_own_logger_gets_name_directory_settings_and_metrics(run_train: RunTrain) -> None:
    run = run_train(
        *SMALL, "trainer.max_epochs=1", "data.batch_size=16", "+logger.own={_target_: test_loggers.Own, run_name: said}"
    )
    (logger,) = LOGGERS
    place = str(run.path)
    assert logger.made_with == {"save_dir": place, "dir": place, "name": run.path.name, "run_name": "said"}
    assert (logger.settings["data.batch_size"], logger.settings["model.hidden"]) == (16, [100])
    assert {"train/loss", "val/acc"} <= logger.metrics.keys()


@pytest.mark.parametrize(("logger", "shown"), [("tensorboard", True), ("none", False)])
def test_tensorboard_is_named_where_the_run_has_logged_to_it(
    run_train: RunTrain, capsys: pytest.CaptureFixture[str], logger: str, shown: bool
) -> None:
    settings = ("data.limit=100", "trainer.max_epochs=1", "callbacks=plots", f"logger={logger}")
    run = run_train(*settings)
    command = f"tensorboard --logdir {run.path.parent}"
    for text in (capsys.readouterr().out, run.page.read_text()):
        assert (command in text) == shown


def test_csv_logger_keeps_the_settings(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "trainer.max_epochs=1", "data.batch_size=16", "logger=csv")
    assert "data.batch_size: 16" in (run.path / "csv" / "hparams.yaml").read_text()


def test_mlflow_logger_takes_what_lightnings_takes() -> None:
    """By its signature it is given the run's name, and a setting that it does not take is refused."""
    parameters = inspect.signature(LockedMLFlowLogger).parameters
    assert {"run_name", "tracking_uri", "save_dir"} <= parameters.keys()
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def test_mlflow_store_is_made_by_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself is an extra: what is held is that its logger is made, and its experiment, while nobody else can."""
    store = tmp_path / "outputs" / "mlflow.db"

    def locked(logger: MLFlowLogger, **settings: Any) -> str:
        logger._initialized = False
        with pytest.raises(Timeout), FileLock(f"{store}.lock", timeout=0):
            pass
        return "client"

    monkeypatch.setattr(MLFlowLogger, "__init__", locked)
    monkeypatch.setattr(MLFlowLogger, "experiment", property(locked))
    logger = LockedMLFlowLogger(tracking_uri=f"sqlite:///{store}", run_name="a")
    assert logger.experiment == "client"
    with FileLock(f"{store}.lock", timeout=0):
        pass


def test_trackio_has_the_settings_and_the_curves_of_each_step(
    run_train: RunTrain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackio itself is an extra: what is held is what its run is given, in parts that continue each other."""
    begun: list[dict[str, Any]] = []
    written: list[tuple[dict[str, float], int]] = []
    finished: list[int] = []
    trackio = ModuleType("trackio")
    trackio.__spec__ = ModuleSpec("trackio", None)
    run_of = SimpleNamespace(
        log=lambda values, step: written.append((values, step)), finish=lambda: finished.append(len(begun))
    )
    monkeypatch.setattr(
        trackio, "init", lambda project, **given: begun.append({"project": project, **given}) or run_of, raising=False
    )
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "own"))
    run = run_train(*SMALL[:2], "callbacks=none", "logger=trackio", "lr=0.01")
    assert {(part["project"], part["name"], part["resume"]) for part in begun} == {("lithydra", run.path.name, "allow")}
    assert begun[0]["config"]["lr"] == 0.01 and finished[-1] == len(begun)
    curve = {step: values["val/acc"] for values, step in written if "val/acc" in values}
    assert [f"{value}" for value in curve.values()] == [row["val/acc"] for row in run.read_metrics()]
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "own")


@pytest.mark.parametrize(("name", "constraints"), [("wandb", ""), ("mlflow", ""), ("trackio", "-trackio")])
def test_a_logger_whose_package_is_missing_is_named(
    name: str, constraints: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    line = f'logger={name}: not installed; this needs pip install -c constraints{constraints}.txt -e ".[{name}]"'
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        check(compose(f"logger={name}"))
