import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from conftest import ROOT, Compose
from killing import in_child
from lithydra import cli
from lithydra.checks.messages import MENDABLE, one_line
from lithydra.errors import ConfigError
from lithydra.training.train import train
from lithydra.verbs import table

Finished = dict[str, tuple[Path, Any]]  # command line: the folder it ran in, the finished process

TRAIN = str(ROOT / "train.py")
ONE_RUN = "trainer.max_epochs=2"
SWEEP = "optimizer=sgd,adam -m lr=0.1,0.01 trainer.max_epochs=1 data.limit=300 callbacks=none"
TWO_PROBLEMS = "lr=-1 seed=1.5"
# Command line of train.py, what the line on stderr must hold.
BAD = {
    "model=foo": "model=foo: choose one of",
    "model=rsnet18": "Did you mean resnet18?",
    "optimizer.lrr=1": "optimizer.lrr: no such setting. Did you mean optimizer.lr?",
    "trainer.limit_tran_batches=3": (
        "trainer.limit_tran_batches: no such setting. Did you mean trainer.limit_train_batches?"
    ),
    "trainer.val_check_interval=0.5": "trainer.val_check_interval: not taken, validation follows each epoch",
    "max_epochs=abc": "max_epochs: no such setting. Did you mean trainer.max_epochs?",
    "epochs=3": "epochs: no such setting. It is trainer.max_epochs here",
    "gpu=1": "gpu: no such setting. It is accelerator=gpu here",
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
    "compile=graph accelerator=cpu": "compile=graph: needs a GPU of Nvidia's; compile=true compiles for others",
    "data.num_folds=5 data.fold=5": "data.fold=5: data.num_folds=5 has folds 0 to 4",
    "scheduler=cosine scheduler.T_max=0": "scheduler.T_max=0: must be a whole number at least 1",
    "lr": "lr: not of the form key=value",
    "lr=[": "error: lr=[",
    "resume=nowhere": "resume=nowhere: no such directory",
    "resume=empty": "resume=empty: not a run directory",
    "accelerator=gpu": "accelerator=gpu: this machine has no GPU",
}


def python(*arguments: str, folder: Path, data_dir: Path) -> subprocess.CompletedProcess[str]:
    """What a person types, in a new folder that holds nothing but the folder `empty`."""
    (folder / "empty").mkdir(parents=True)
    environment = {**os.environ, "LITHYDRA_DATA": str(data_dir), "OMP_NUM_THREADS": "1"}
    for name in ("LITHYDRA_OUTPUTS", "HYDRA_FULL_ERROR"):
        environment.pop(name, None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Finished:
    """Each command line of train.py with its folder and its finished process, two run at a time."""
    folders = {line: tmp_path_factory.mktemp("cli") / "work" for line in (ONE_RUN, SWEEP, TWO_PROBLEMS, *BAD)}

    def run(line: str) -> tuple[Path, Any]:
        options = ("-X", "importtime") if line in BAD else ()
        return folders[line], python(*options, TRAIN, *shlex.split(line), folder=folders[line], data_dir=data_dir)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(folders, pool.map(run, folders), strict=True))


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_code_2(line: str, finished: Finished) -> None:
    if line == "accelerator=gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    folder, done = finished[line]
    imports = [row for row in done.stderr.splitlines() if row.startswith("import time:")]
    said = [row for row in done.stderr.splitlines() if not row.startswith("import time:")]
    assert done.returncode == 2
    assert len(said) == 1 and said[0].startswith("error: ") and BAD[line] in said[0], said
    assert done.stdout == ""
    assert [path.name for path in folder.rglob("*")] == ["empty"]
    names = {row.rpartition("|")[2].strip() for row in imports}
    assert "lithydra.checks.config" in names and not names & {"torch", "lightning", "numpy"}


def test_each_problem_has_its_line(finished: Finished) -> None:
    done = finished[TWO_PROBLEMS][1]
    assert done.returncode == 2
    assert sorted(line.partition("=")[0] for line in done.stderr.splitlines()) == ["error: lr", "error: seed"]


def test_training_ends_with_a_table_and_the_next_commands(finished: Finished) -> None:
    folder, done = finished[ONE_RUN]
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = (folder / "outputs" / "runs").iterdir()
    metrics = json.loads((run / "status.json").read_text())["metrics"]
    for split in ("train", "val", "test"):
        row = rf"{split} +│ +{metrics[f'{split}/loss']:.4f} +│ +{metrics[f'{split}/acc']:.4f}"
        assert re.search(row, done.stdout), done.stdout
    path = run.relative_to(folder)
    assert f"python scripts/evaluate.py run={path}\n" in done.stdout
    assert f"python train.py resume={path} trainer.max_epochs=4\n" in done.stdout
    assert re.search(r"epoch +2 +train loss \d\.\d{4} acc \d\.\d{4} +val loss", done.stdout)
    assert re.search(r"best epoch 2 of 2, \d+\.\d s in all, [\d,]+ images/s", done.stdout)
    assert (run / "command.txt").read_text() == f"python {TRAIN} {ONE_RUN}\n"
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "outputs"]


def test_sweep_trains_every_combination(finished: Finished) -> None:
    folder, done = finished[SWEEP]
    assert done.returncode == 0, done.stderr
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    runs = [path.parent for path in sweep.glob("*/status.json")]
    assert len(runs) == 4
    found = set()
    for run in runs:
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
        config = yaml.safe_load((run / "config.yaml").read_text())
        found.add((config["optimizer"]["_target_"], config["lr"]))
    assert found == {(f"torch.optim.{name}", lr) for name in ("SGD", "Adam") for lr in (0.1, 0.01)}


# What check() cannot know without torch or the data: refused all the same before there is a run.
LATE = {
    "data.batch_size=2000": "data.batch_size=2000",
    "data.classes=[3,12]": "data.classes=[3, 12]",
    "data.limit=2000": "data.limit=2000",
    "data.limit=15": "data.val_fraction=0.1",
    "data=npz data.path=nowhere.npz": "data.path=nowhere.npz",
    "loss=binary_cross_entropy": "loss=",
    "model=alexnet_imagenet": "data.image_size=64",
    "model.activation=rleu": "model.activation=rleu",
    "model._target_=lithydra.models.mlp.MPL": "lithydra.models.mlp.MPL",
    "optimizer._target_=torch.optim.Adamm": "torch.optim.Adamm",
    "scheduler=step scheduler._target_=torch.optim.lr_scheduler.Steplr": "torch.optim.lr_scheduler.Steplr",
    "scheduler=onecycle scheduler.total_steps=10": "scheduler.total_steps=10",
    "augmentation=mixup augmentation.mixup.alpha=0": "augmentation.mixup.alpha=0",
    "normalization=z_score normalization.std=[0]": "normalization.std=[0",
    "+model.width=3": "width",
    "+optimizer.lrr=1": "lrr",
    "scheduler=step +scheduler.step=3": "step",
    "+trainer.epochs=3": "epochs",
    "trainer.strategy=dpp": "dpp",
}


@pytest.mark.parametrize("line", LATE)
def test_what_cannot_work_is_refused_before_there_is_a_run(line: str, compose: Compose, tmp_path: Path) -> None:
    config = compose(*line.split(), "callbacks=none", "logger=none", "trainer.max_epochs=1")
    with pytest.raises(ConfigError) as caught:
        train(config, {"data": "digits", "model": "mlp"}, [])
    assert LATE[line] in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "outputs").exists()


def test_unwritable_outputs_are_refused(compose: Compose) -> None:
    with pytest.raises(ConfigError, match=r"paths\.runs=/proc/nowhere/runs: cannot be written"):
        train(compose("paths.outputs=/proc/nowhere"), {"data": "digits", "model": "mlp"}, [])


def test_a_second_run_in_the_same_directory_is_refused(compose: Compose, tmp_path: Path) -> None:
    settings = ("data.limit=100", "trainer.max_epochs=1", "callbacks=none", "logger=none", f"run={tmp_path / 'a'}")
    train(compose(*settings), {"data": "digits", "model": "mlp"}, [])
    before = (tmp_path / "a" / "status.json").read_text()
    with pytest.raises(ConfigError, match=r"run=.*/a: holds a run already; resume=.*/a goes on with it"):
        train(compose(*settings), {"data": "digits", "model": "mlp"}, [])
    assert (tmp_path / "a" / "status.json").read_text() == before


@pytest.mark.slow
def test_distributed_training_is_one_run(tmp_path: Path, data_dir: Path) -> None:
    """Two processes take the steps of one: batches are divided between them."""
    line = "trainer.max_epochs=2 data.limit=256 data.val_fraction=0.25 logger=none callbacks=none"
    single, double = (tmp_path / name for name in ("single", "double"))
    for folder, more in ((single, ()), (double, ("accelerator=ddp_cpu",))):
        done = python(TRAIN, *line.split(), *more, folder=folder, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stdout + done.stderr
    (one,), (two,) = (list((folder / "outputs" / "runs").iterdir()) for folder in (single, double))
    first, second = (json.loads((run / "status.json").read_text())["metrics"] for run in (one, two))
    assert second == pytest.approx(first, rel=1e-4)
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
    torch.testing.assert_close(*states, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_target_: mine.Net\n  width: 3\n", "line 2: not YAML: mapping values are not allowed here"),
        ("_target_: mine.Net\nwidth: [3\n", "line 3: not YAML: "),
        ("_target_: mine.Net\n\twidth: 3\n", "line 2: not YAML: "),
        ("width: 3\nwidth: 4\n", "line 2: not YAML: found duplicate key width"),
    ],
)
def test_a_file_that_is_not_yaml_is_told_with_file_and_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text)
    (tmp_path / "train.yaml").write_text("defaults: [model: mine]\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"), pytest.raises(MENDABLE) as caught:
        hydra.compose("train")
    told = one_line(caught.value)
    assert told.startswith(f"{os.path.relpath(tmp_path / 'model' / 'mine.yaml')}, {said}") and "\n" not in told, told


def test_a_bug_has_its_traceback_once_and_names_the_run_directory(data_dir: Path, tmp_path: Path) -> None:
    """Of the run's own code, which stands beside train.py; here a callback."""

    def task() -> None:
        os.chdir(tmp_path)
        GlobalHydra.instance().clear()
        Path("own.py").write_text(
            "from lightning import Callback\nclass Broken(Callback):\n    def on_train_epoch_end(self, *_): 1 / 0\n"
        )
        sys.path.insert(0, str(tmp_path))
        sys.argv = ["train.py", f"paths.data={data_dir}", "callbacks=none", "logger=none", "data.limit=100"]
        sys.argv += ["run=here", "+callbacks.own._target_=own.Broken"]
        cli.main("train")

    assert in_child(task, tmp_path / "log") == 1
    said = (tmp_path / "log").read_text()
    assert said.count("Traceback") == 1 and said.count("ZeroDivisionError") == 2
    assert said.splitlines()[-1] == "error: ZeroDivisionError: division by zero; run directory here"
    assert (tmp_path / "here" / "train.log").read_text().count("Traceback") == 1


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_wait_briefly_unless_a_person_has_said_how(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(own))
    table.wait_briefly()
    assert os.environ == (own or {"GOMP_SPINCOUNT": table.SPINS})
