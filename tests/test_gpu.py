"""What only a GPU can show: `pytest -m gpu`. LITHYDRA_TEST_DEVICE=cpu tries the tests themselves on a CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from augmenting import NAMES, SHAPE, batch, build
from conftest import QUIET, ROOT, assert_equal, checkpoint, rows
from lithydra.augmentations.chain import Chain
from lithydra.run.directory import RunDir
from lithydra.sweeps.directory import SweepDir

DEVICE = os.environ.get("LITHYDRA_TEST_DEVICE", "gpu")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "gpu" and not torch.cuda.is_available(), reason="no GPU"),
]
WHERE = "cuda" if DEVICE == "gpu" else "cpu"
NET = ("model=cnn", "model.channels=[8,16]", "model.dropout=0.2", "model.batch_norm=true")
SMALL = ("data.limit=400", "trainer.max_epochs=3", *QUIET)


def start(tmp_path: Path, *settings: str) -> subprocess.Popen[bytes]:
    resumes = any(setting.startswith("resume=") for setting in settings)  # a resumed run has its own
    command = [sys.executable, str(ROOT / "train.py"), *settings, *([] if resumes else [f"accelerator={DEVICE}"])]
    return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def train(tmp_path: Path, name: str, *settings: str) -> RunDir:
    process = start(tmp_path, *settings, f"run={tmp_path / name}")
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said.decode()[-3000:]
    return RunDir(tmp_path / name)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param((), id="fp32"),
        pytest.param(("trainer.precision=bf16-mixed",), id="bf16"),
        pytest.param(
            ("trainer.precision=16-mixed",),
            id="fp16",
            marks=pytest.mark.skipif(DEVICE == "cpu", reason="a GPU's precision"),
        ),
        pytest.param(("trainer.precision=auto",), id="auto"),
        pytest.param(("compile=true",), id="compile"),
        pytest.param(("augmentation=[flip,affine,mixup]", "average=ema", "tta=flip"), id="augmented and averaged"),
        pytest.param(("model=airbench", "data.image_size=10", "optimizer=muon_sgd", "scheduler=linear"), id="airbench"),
    ],
)
def test_the_loss_falls(tmp_path: Path, settings: tuple[str, ...]) -> None:
    net = () if "model=airbench" in settings else NET
    run = train(tmp_path, "run", *SMALL, *net, *settings)
    losses = [float(row["train/loss"]) for row in rows(run)]
    assert losses[-1] < losses[0]
    assert run.origin()["trainer"]["device"].startswith(WHERE)


def test_chunks_of_steps_change_nothing(tmp_path: Path) -> None:
    one, many = (
        train(tmp_path, f"of_{steps}", *SMALL, "model.dropout=0.2", f"trainer.steps_per_execution={steps}")
        for steps in (1, 16)
    )
    assert_equal(dict(checkpoint(one.last)["state_dict"]), dict(checkpoint(many.last)["state_dict"]))


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs")
@pytest.mark.parametrize("net", [NET, ("model=airbench", "data.image_size=10", "optimizer=muon_sgd")])
def test_a_replayed_graph_trains_the_weights_of_the_eager_net(tmp_path: Path, net: tuple[str, ...]) -> None:
    settings = (*SMALL, *net, "model.dropout=0" if net is NET else "trainer.precision=bf16-mixed", "tta=flip")
    eager, graph = (
        train(tmp_path, name, *settings, f"compile={name}", "trainer.deterministic=true") for name in ("false", "graph")
    )
    assert_equal(dict(checkpoint(eager.last)["state_dict"]), dict(checkpoint(graph.last)["state_dict"]))
    for name in ("train/acc", "val/acc"):  # of logits, which the next replay overwrites
        assert [row[name] for row in rows(graph)] == [row[name] for row in rows(eager)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, precision: str) -> None:
    settings = ("data.limit=400", *QUIET, "model.dropout=0.2", "augmentation=affine", f"trainer.precision={precision}")
    settings = (*settings, "trainer.max_epochs=40", "checkpoint.every_n_steps=3", "trainer.deterministic=true")
    whole, run = train(tmp_path, "whole", *settings), RunDir(tmp_path / "run")
    process = start(tmp_path, *settings, f"run={run.path}")
    deadline = time.monotonic() + 200
    while not run.previous.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert run.read_status()["state"] == "running"
    resumed = start(tmp_path, f"resume={run.path}")
    said, _ = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, said.decode()[-3000:]
    assert_equal(dict(checkpoint(run.last)["state_dict"]), dict(checkpoint(whole.last)["state_dict"]))
    assert rows(run) == rows(whole)


def test_four_jobs_of_a_sweep_at_once(tmp_path: Path) -> None:
    process = start(
        tmp_path, "-m", *SMALL, "seed=range(0,4)", "sweep.n_jobs=4", "sweep.name=s", f"paths.sweeps={tmp_path}"
    )
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said.decode()[-3000:]
    sweep = SweepDir(tmp_path / "s")
    assert [sweep.state(job) for job in sweep.read().jobs] == ["finished"] * 4


@pytest.mark.parametrize("name", NAMES)
def test_augmentations_stay_on_the_device(name: str) -> None:
    images, labels = (part.to(WHERE) for part in batch())
    chain = Chain([build(name)])
    chain.set_position(0, torch.arange(len(images), device=WHERE))
    augmented, targets = chain(images, labels)
    assert augmented.device.type == targets.device.type == WHERE and augmented.shape[1:] == SHAPE
    assert augmented.isfinite().all()
