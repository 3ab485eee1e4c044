"""A run and a sweep of version 0.1, whose files name classes where they were then, work as those of today do.

The run was killed in its second epoch of three, the sweep lacks its second job.
"""

import copy
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lithydra
from killing import in_child
from lithydra import cli
from lithydra.run.directory import RunDir
from lithydra.run.moved import MOVED, with_moved_names
from lithydra.training.instantiate import located
from sweeping import sweep

STORED = Path(__file__).with_name("version_0_1")
COMMON = ("data.limit=200", "model.hidden=[4]", "logger=none", "callbacks=none", "scheduler=warmup_cosine")
COMMON += ("data.dir=data", "accelerator=cpu")

Call = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, data_dir: Path) -> Path:
    shutil.copytree(STORED, tmp_path / "outputs")
    shutil.copytree(data_dir, tmp_path / "data")
    return tmp_path


@pytest.fixture
def call(folder: Path) -> Call:
    """`call("evaluate", "run=DIR")` is the script with these arguments; gives what it prints."""

    def call(verb: str, *arguments: str) -> str:
        def task() -> None:
            os.chdir(folder)
            sys.argv = [f"{verb}.py", *arguments]
            cli.main(verb)

        log = folder / "log"
        assert in_child(task, log) == 0, log.read_text()
        return log.read_text()

    return call


def test_a_run_evaluates_resumes_and_exports(folder: Path, call: Call) -> None:
    run = RunDir(folder / "outputs/runs/before")
    assert "lithydra.schedulers." in run.config.read_text()  # kept by make project
    call("evaluate", f"run={run.path}", "split=val", "accelerator=cpu")
    measured = run.read_status()["metrics"]["val/acc"]
    assert f"{measured:.4f}" in (folder / "log").read_text()
    call("train", f"resume={run.path}")
    assert run.read_status()["state"] == "finished" and run.read_status()["epoch"] == 3
    assert run.read_config()["scheduler"]["_target_"] == "lithydra.schedules.warmup_cosine"
    pytest.importorskip("onnxruntime")
    call("export", f"run={run.path}", "num_images=50")
    assert (run.path / "export/model.onnx").is_file()


def test_a_sweep_goes_on_and_reports(folder: Path, data_dir: Path, call: Call) -> None:
    path = folder / "outputs/sweeps/before"
    assert list(lithydra.results(path)["state"]) == ["finished", "not started"]
    call("report", f"sweep={path}")
    first = (path / "lr=0.1/checkpoints/last.ckpt").stat().st_mtime_ns
    settings = (*COMMON, "trainer.max_epochs=2", "lr=0.1,0.01", "sweep.name=before")
    done = sweep(*settings, "paths.outputs=outputs", "paths.data=data", folder=folder, data_dir=data_dir, name="before")
    assert done.code == 0, done.output
    assert "1 of 2 jobs ended before this command" in done.output and "other settings" not in done.output
    assert list(lithydra.results(path)["state"]) == ["finished", "finished"]
    assert (path / "lr=0.1/checkpoints/last.ckpt").stat().st_mtime_ns == first


def test_moved_names_lead_somewhere() -> None:
    names = {"schedulers": "warmup_cosine", "mlflow_logger": "LockedMLFlowLogger", "summary": "NetSummary"}
    names |= {"report_to_trial": "ReportToTrial", "mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
    names |= {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "augmentations": "flip_crop"}
    for old in MOVED:
        name = f"{old}.{names[old.rpartition('.')[2]]}"
        located("x", with_moved_names({"a": [{"_target_": name}]})["a"][0]["_target_"])


def test_names_of_others_stay() -> None:
    loop = {"_target_": "mine.lithydra.schedulers.warmup_cosine", "also": {"_target_": 1}}
    loop["itself"] = loop
    assert with_moved_names(loop)["_target_"] == "mine.lithydra.schedulers.warmup_cosine"


TORCHS = {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model": {}, "loss": TORCHS}, "lithydra.losses.CrossEntropy"),
        ({"loss": {**TORCHS, "ignore_index": 3}}, "torch.nn.CrossEntropyLoss"),  # of a person's own file
        ({"loss": TORCHS, "method": {}}, "torch.nn.CrossEntropyLoss"),  # chosen since
    ],
)
def test_cross_entropy_of_version_0_1_is_todays(config: dict[str, Any], expected: str) -> None:
    assert with_moved_names(copy.deepcopy(config))["loss"]["_target_"] == expected
