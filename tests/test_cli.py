import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import ROOT, Compose
from lithydra.errors import ConfigError
from lithydra.train import train

# Command line of train.py, what the line on stderr must hold.
BAD = {
    "model=foo": "model=foo: choose one of",
    "model=rsnet18": "Did you mean resnet18?",
    "optimizer.lrr=1": "optimizer.lrr: no such setting. Did you mean optimizer.lr?",
    "max_epochs=abc": "max_epochs: no such setting. Did you mean trainer.max_epochs?",
    "trainer.max_epochs=abc": "trainer.max_epochs='abc' (text): must be a whole number at least 1",
    "lr=-1": "lr=-1: must be a number above 0",
    "lr=nan": "lr=nan: must be a number above 0",
    "lr=\"'0.001'\"": "lr='0.001' (text): must be a number above 0",
    "+momentum=0.9 optimizer=sgd": "momentum=0.9: nothing reads a setting of this name",
    "seed=1.5": "seed=1.5: must be a whole number",
    "seed=null": "seed=null: must be a whole number",
    "data.val_fraction=1.5": "data.val_fraction=1.5: must be a number at least 0 and below 1",
    "data.batch_size=0": "data.batch_size=0: must be a whole number at least 1",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: must be a whole number at least 1",
    "model.hidden=[0]": "model.hidden=[0]: must be a list",
    "monitor.mode=min": "monitor.mode=min: val/acc is better the higher; use max",
    "optimizer=lbfgs trainer.precision=bf16-mixed": "optimizer=lbfgs: needs full precision",
    "data.num_folds=5 data.fold=5": "data.fold=5: data.num_folds=5 has folds 0 to 4",
    "scheduler=cosine scheduler.T_max=0": "scheduler.T_max=0: must be a whole number at least 1",
    "lr": "lr: not of the form key=value",
    "lr=[": "error: lr=[",
    "resume=nowhere": "resume=nowhere: no such directory",
    "resume=empty": "resume=empty: not a run directory",
    "-m lr=0.1,-1": "lr=-1: must be a number above 0",
    "lr=-1 seed=1.5": "seed=1.5: must be a whole number",
    "accelerator=gpu": "accelerator=gpu: this machine has no GPU",
}
NO_TORCH = "-X importtime"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


def train_py(line: str, folder: Path, data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`python train.py LINE` as a person would type it in an empty folder."""
    folder.mkdir()
    (folder / "empty").mkdir()
    environment = {**os.environ, "LITHYDRA_DATA": str(data_dir), "OMP_NUM_THREADS": "1"}
    for name in ("LITHYDRA_OUTPUTS", "HYDRA_FULL_ERROR"):
        environment.pop(name, None)
    command = [sys.executable, *options, str(ROOT / "train.py"), *shlex.split(line)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Every bad command line, run two at a time. `-X importtime` lists on stderr what was imported."""
    folder = tmp_path_factory.mktemp("refused")
    with ThreadPoolExecutor(2) as pool:
        numbered = enumerate(BAD)
        runs = pool.map(lambda n: train_py(n[1], folder / str(n[0]), data_dir, "-X", "importtime"), numbered)
        return dict(zip(BAD, runs, strict=True))
