"""A small run that is trained, and the settings of a verb that takes it."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from conftest import CONF, RunTrain
from lithydra.run.directory import RunDir

SMALL = ("data.limit=400", "trainer.max_epochs=3", "callbacks=none", "logger=none")


def settings(verb: str, data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=["accelerator=cpu", f"paths.data={data_dir}", *overrides])


@pytest.fixture
def run(run_train: RunTrain) -> RunDir:
    return run_train(*SMALL, "model=cnn", "model.channels=[8]", "normalization=z_score")
