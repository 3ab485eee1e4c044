"""Several processes on this machine's CPU, as `accelerator=ddp_cpu` starts them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lithydra
from conftest import ROOT, assert_equal, rows
from lithydra.checkpoint_io import load
from lithydra.run_dir import RunDir

# 320 images less a tenth are 18 batches of 16: each is divided evenly between two processes.
SETTINGS = ("data.limit=320", "data.batch_size=16", "trainer.max_epochs=2", "model.hidden=[16]", "callbacks=none")


# train.py, but each process writes down what it draws.
WATCHED = """
import os, sys
from lithydra import cli, plots, run_page

def noted(module, name, say):
    original = getattr(module, name)
    def call(*arguments):
        with open("drawn.txt", "a") as file:
            print(os.environ.get("LOCAL_RANK", "0"), name, say(*arguments), sep="|", file=file)
        return original(*arguments)
    setattr(module, name, call)

noted(plots, "save", lambda figure, path: path.stem)
noted(plots, "confusion", lambda counts, names, title: counts.tolist())
noted(plots, "guesses", lambda items, *_: [item.probability for item in items])
noted(run_page, "write", lambda run: "")
cli.main_train()
"""


def trained(
    name: str, accelerator: str, folder: Path, data_dir: Path, *settings: str, program: Path = ROOT / "train.py"
) -> RunDir:
    run = RunDir(folder / name)
    command = [sys.executable, str(program), f"accelerator={accelerator}", f"paths.data={data_dir}"]
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


@pytest.mark.slow
def test_two_processes_draw_once_what_both_have_seen(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "watched.py").write_text(WATCHED)
    settings = ("callbacks=plots", "data.eval_batch_size=50", "trainer.max_epochs=1")
    run = trained("run", "ddp_cpu", tmp_path, data_dir, *settings, program=tmp_path / "watched.py")
    lines = [line.split("|") for line in (tmp_path / "drawn.txt").read_text().splitlines()]
    assert {rank for rank, _, _ in lines} == {"0"}
    pictures = ["confusion", "curves", "filters", "mistakes", "samples"]
    assert sorted(said for _, name, said in lines if name == "save") == pictures
    assert sum(name == "write" for _, name, _ in lines) == 1
    assert sorted(path.stem for path in run.plots.iterdir()) == pictures and run.page.exists()

    with np.load(data_dir / "digits.npz") as file:
        images, labels = file["x_test"], file["y_test"]
    module = lithydra.load(run.path)
    with torch.no_grad():
        probabilities = module.probabilities(module(torch.from_numpy(images)[:, None])).numpy()
    predicted = probabilities.argmax(1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    ((counts,), (mistakes,)) = (
        [ast.literal_eval(said) for _, name, said in lines if name == wanted] for wanted in ("confusion", "guesses")
    )
    assert np.sum(counts) == len(labels) and (np.array(counts) == expected).all()
    surest = np.sort(probabilities[predicted != labels].max(1))[::-1][:24]
    assert mistakes == pytest.approx(surest.tolist(), abs=1e-5)
