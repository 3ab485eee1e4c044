"""Several processes on this machine's CPU, as `accelerator=ddp_cpu` starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT, assert_equal, rows
from lithydra.checkpoint_io import load
from lithydra.run_dir import RunDir

# 320 images less a tenth are 18 batches of 16: each is divided evenly between two processes.
SETTINGS = ("data.limit=320", "data.batch_size=16", "trainer.max_epochs=2", "model.hidden=[16]", "callbacks=none")


def trained(name: str, accelerator: str, folder: Path, data_dir: Path, *settings: str) -> RunDir:
    run = RunDir(folder / name)
    command = [sys.executable, str(ROOT / "train.py"), f"accelerator={accelerator}", f"paths.data={data_dir}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    settings = (*SETTINGS, *settings, f"run={run.path}")
    subprocess.run([*command, *settings], cwd=folder, env=environment, check=True, timeout=300)
    return run


@pytest.mark.slow
def test_two_processes_train_as_one_within_rounding(tmp_path: Path, data_dir: Path) -> None:
    one, two = (trained(name, name, tmp_path, data_dir) for name in ("cpu", "ddp_cpu"))
    for name, value in load(one.last)["state_dict"].items():
        torch.testing.assert_close(load(two.last)["state_dict"][name], value, rtol=1e-4, atol=1e-6)
    for first, second in zip(one.read_metrics(), two.read_metrics(), strict=True):
        for name in ("step", "train/loss", "train/acc", "val/loss", "val/acc"):
            assert float(second[name]) == pytest.approx(float(first[name]), rel=1e-4)
    assert two.read_status()["state"] == "finished"


@pytest.mark.slow
def test_chunks_of_steps_change_nothing_in_two_processes(tmp_path: Path, data_dir: Path) -> None:
    accumulating = ("trainer.accumulate_grad_batches=2",)
    one, many = (
        trained(k, "ddp_cpu", tmp_path, data_dir, f"trainer.steps_per_execution={k}", *accumulating) for k in ("1", "7")
    )
    assert_equal(load(many.last)["state_dict"], load(one.last)["state_dict"])
    assert_equal(load(many.last)["optimizer_states"], load(one.last)["optimizer_states"])
    assert rows(many) == rows(one)
