"""Promise 13: what two processes on this machine's CPU make of a run is what one makes of it."""

import signal
from pathlib import Path

import pytest
import torch

from conftest import rows
from killing import SignalAt, differences, outcome
from lithydra.checkpoint_io import load
from lithydra.run_dir import RunDir
from lithydra.signals import EXIT_CODES
from ranks import Runs, ended

PROMISE = "13. Several processes, one result"

PLAIN = ("callbacks=none", "logger=none", "model.hidden=[16]", "optimizer=sgd", "lr=0.3", "trainer.max_epochs=2")


@pytest.fixture
def runs(data_dir: Path, tmp_path: Path) -> Runs:
    return Runs(data_dir, tmp_path)


@pytest.mark.counted("batch sizes x last batches: equal to one process")
@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("batch_size", [16, 17, 18])
def test_two_processes_train_as_one(runs: Runs, batch_size: int, last: int) -> None:
    size = ("data.val_fraction=0", f"data.limit={7 * batch_size + last}", f"data.batch_size={batch_size}")
    one, two = (runs.finished(name, *PLAIN, *size, f"accelerator={name}") for name in ("cpu", "ddp_cpu"))
    for name, value in load(one.last)["state_dict"].items():
        torch.testing.assert_close(load(two.last)["state_dict"][name], value, rtol=0, atol=1e-5)
    for first, second in zip(rows(one), rows(two), strict=True):
        assert second["train/acc"] == first["train/acc"]


# What the processes have to themselves: dropout and augmentation, BatchNorm's statistics, and sums in mid-epoch.
OWN = (
    "accelerator=ddp_cpu",
    "callbacks=none",
    "logger=none",
    "data.limit=257",
    "data.batch_size=16",
    "trainer.max_epochs=3",
    "model.hidden=[16]",
    "model.dropout=0.3",
    "model.batch_norm=true",
    "augmentation=flip_crop",
    "augmentation.padding=1",
    "scheduler=onecycle",
    "trainer.steps_per_execution=4",
    "checkpoint.every_n_steps=3",
)


@pytest.fixture(scope="module")
def reference(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """How an uninterrupted run of two processes ends."""
    return outcome(Runs(data_dir, tmp_path_factory.mktemp("reference")).finished("run", *OWN))


TARGETS = {"main": {"rank": 0}, "other": {"rank": 1}, "all": {"rank": 0, "group": True}}
POINTS = {"set-up": "fit start", "training": "batch", "validation": "validation", "test": "test"}
FAST = {("training", "other", signal.SIGTERM), ("validation", "all", signal.SIGINT), ("test", "other", signal.SIGTERM)}


@pytest.mark.counted("signals to one of two processes, or to both: saved, stopped, resumed bit-equal")
@pytest.mark.parametrize(
    ("point", "target", "number"),
    [
        pytest.param(point, TARGETS[target], number, id=f"{number.name} to {target} in {phase}", marks=marks)
        for number in EXIT_CODES
        for target in TARGETS
        for phase, point in POINTS.items()
        for marks in [[] if (phase, target, number) in FAST else [pytest.mark.slow]]
    ],
)
def test_a_signal_to_any_process_stops_all(
    runs: Runs, reference: dict, point: str, target: dict, number: signal.Signals
) -> None:
    run, kill = RunDir(runs.folder / "run"), SignalAt(point, 1, number, **target)
    assert ended(runs.start(*OWN, f"run={run.path}", prepare=kill.install)) == EXIT_CODES[number]
    assert run.read_status()["state"] == "interrupted"
    assert f"Go on with: python train.py resume={run.path}" in run.read_status()["error"]
    assert runs.rank_is_gone()
    assert ended(runs.start(f"resume={run.path}", "accelerator=ddp_cpu")) == 0, runs.log.read_text()
    assert differences(reference, outcome(run)) == []
