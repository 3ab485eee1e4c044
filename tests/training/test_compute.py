"""What a step costs, the threads that it gets, and the precision that is faster."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conftest import QUIET, SMALL, RunTrain
from killing import Killing, SignalAt
from lithydra.errors import ConfigError
from lithydra.models.mlp import MLP
from lithydra.run.directory import RunDir
from lithydra.training import compute, precision
from lithydra.training.compute import FLOPS_PER_THREAD, flops_of, peak, settle_threads


def place(world_size: int = 1, device: str = "cpu") -> Any:
    return SimpleNamespace(world_size=world_size, strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One of eight cores, on which nobody has said anything; the numbers of threads that were set."""
    chosen: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(compute, "all_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    return chosen


def test_operations_are_those_of_products_forward_and_backward() -> None:
    net, images = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5)), torch.ones(7, 20)
    first, second = 2 * 7 * 20 * 30, 2 * 7 * 30 * 5
    assert flops_of(lambda: net(images)) == first + second
    assert flops_of(lambda: net(images).sum().backward()) == 2 * first + 3 * second  # images have no gradient


def test_operations_are_counted_where_a_step_takes_gradients_of_its_own() -> None:
    net, images = nn.Linear(20, 5), torch.ones(7, 20, requires_grad=True)
    product = 2 * 7 * 20 * 5
    assert flops_of(lambda: torch.autograd.grad(net(images).sum(), images)) == 2 * product
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    assert flops_of(lambda: convolution(torch.ones(2, 3, 8, 8)).sum().backward()) == 2 * (2 * 2 * 64 * 4 * 27)


@pytest.mark.parametrize(
    ("flops", "threads"),
    [(0, 1), (FLOPS_PER_THREAD, 1), (3 * FLOPS_PER_THREAD, 3), (1000 * FLOPS_PER_THREAD, 8)],
)
def test_a_step_gets_as_many_threads_as_it_has_work_for(machine: list[int], flops: float, threads: int) -> None:
    settle_threads("auto", int(flops), place=place())
    assert machine == [threads]


def test_a_persons_own_number_of_threads_stands(machine: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    settle_threads(5, 0, place=place())
    assert machine == [5]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    settle_threads("auto", 0, place=place())
    assert machine == [5]


@pytest.mark.parametrize(("before", "threads"), [(4, 4), (64, 8)])
def test_a_resumed_run_keeps_its_threads_where_it_can(machine: list[int], before: int, threads: int) -> None:
    settle_threads("auto", 0, place=place(), before=before)
    assert machine == [threads]


@pytest.mark.parametrize("where", [place(world_size=2), place(device="cuda")])
def test_several_processes_and_gpus_are_left_alone(machine: list[int], where: Any) -> None:
    settle_threads("auto", 0, place=where)
    assert machine == []


def test_a_run_says_what_it_cost(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "model.hidden=[20]", "data.batch_size=10", "callbacks=default", "trainer.max_epochs=1")
    how, spent = run.origin()["trainer"], run.read_status()["compute"]
    products = 2 * 10 * (2 * 64 * 20 + 3 * 20 * 10)
    assert how["step_flops"] == products and how["parameters"] == 64 * 20 + 20 + 20 * 10 + 10
    assert 0 < spent["flops_per_second"] < spent["peak"] and spent["peak_memory"] > 1e8
    page = run.page.read_text()
    assert "1,510" in page and f"{products / 1000:.3g} kFLOP" in page and "of the" in page and "B at most" in page


def test_peak_is_of_the_precision() -> None:
    for name in ("32-true", "bf16-mixed", "64-true"):
        assert peak(torch.device("cpu"), name) > 1e8


TIMED = {"32-true": 0.2, "bf16-mixed": 0.1}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of a step, by precision, in place of what this machine takes."""
    seconds = dict(TIMED)

    def measured(config: Any, *others: Any) -> float:
        return seconds[config.trainer.precision]

    monkeypatch.setattr(precision, "_seconds_of_a_step", measured)
    return seconds


@pytest.mark.parametrize(("half", "chosen"), [(0.1, "bf16-mixed"), (0.199, "32-true"), (0.3, "32-true")])
def test_auto_takes_the_faster_precision(
    run_train: RunTrain, timed: dict[str, float], half: float, chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    timed["bf16-mixed"] = half
    caplog.set_level(logging.INFO)
    run = run_train(*SMALL, "trainer.precision=auto")
    assert run.read_config()["trainer"]["precision"] == chosen
    assert run.origin()["trainer"]["precision"] == chosen and run.origin()["trainer"]["step_seconds"] == timed
    assert f"training in {chosen}" in caplog.text


def test_other_work_that_comes_upon_one_precision_does_not_decide(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = iter([0.2, 5.0, 0.3, 0.1])  # full, half, full, half: the first step in half precision was disturbed
    monkeypatch.setattr(precision, "_seconds_of_a_step", lambda *_: next(taken))
    run = run_train(*SMALL, "trainer.precision=auto")
    assert run.origin()["trainer"]["step_seconds"] == {"32-true": 0.2, "bf16-mixed": 0.1}
    assert run.read_config()["trainer"]["precision"] == "bf16-mixed"


def test_steps_are_timed_in_the_precision_of_products_that_is_trained_in(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, timed = [""], list[str]()
    monkeypatch.setattr(torch, "set_float32_matmul_precision", chosen.append)
    monkeypatch.setattr(precision, "_seconds_of_a_step", lambda *_: timed.append(chosen[-1]) or 0.1)
    run_train(*SMALL, "trainer.precision=auto", "accelerator.matmul_precision=high")
    assert {*timed} == {"high"}


def test_auto_measures_what_it_says(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "trainer.precision=auto")
    seconds = run.origin()["trainer"]["step_seconds"]
    assert seconds.keys() == TIMED.keys() and all(0 < value < 60 for value in seconds.values())


def test_a_resumed_run_keeps_its_precision(killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir(tmp_path / "run")
    monkeypatch.setattr(precision, "_seconds_of_a_step", lambda config, *others: TIMED[config.trainer.precision])
    assert killing.child(*SMALL, "trainer.precision=auto", f"run={run.path}", kill=SignalAt("batch", 20)) == -9
    monkeypatch.setattr(precision, "WORTH", 0.0)  # now it would be the other
    assert killing.child(f"resume={run.path}") == 0
    assert run.read_status()["state"] == "finished"
    assert [part["trainer"]["precision"] for part in run.origins()] == ["bf16-mixed", "bf16-mixed"]


def test_bf16_that_is_slower_is_said(
    run_train: RunTrain, timed: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    run_train(*SMALL, "accelerator=cpu_bf16")
    assert "bfloat16 is slower" not in caplog.text
    timed["bf16-mixed"] = 0.4
    run = run_train(*SMALL, "accelerator=cpu_bf16")
    told = "A step of 16 images takes 200 ms in 32-true, 400 ms in bf16-mixed: bfloat16 is slower here"
    assert told in caplog.text and run.read_config()["trainer"]["precision"] == "bf16-mixed"


def test_auto_of_a_net_without_gradients_is_full_precision(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "model=nearest_mean", "trainer.precision=auto")
    assert run.read_config()["trainer"]["precision"] == "32-true"


@pytest.mark.parametrize("setting", ["trainer.precision=auto", "accelerator=cpu_bf16"])
def test_what_does_not_fit_together_is_refused_in_one_line(
    run_train: RunTrain, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MLP, "forward", lambda self, x: self.head(x.flatten(1)))
    with pytest.raises(ConfigError, match=r"^model and data do not fit together: images \(16, 1, 8, 8\)"):
        run_train(*SMALL, "model.hidden=[20]", setting)


def test_auto_beside_a_module_of_ones_own_is_refused(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.precision=auto: is lithydra's own"):
        run_train(*QUIET, "module=autoencoder", "trainer.precision=auto")
