"""Promise 18: all of Lightning's hooks around a batch, against stock Lightning, and what needs every batch."""

import json
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
from torch import Tensor

from conftest import Compose, RunTrain, assert_equal
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from stock_training import SETTINGS, assert_same_weights, stock

PROMISE = "18. Hooks tell the truth"

HERE = "test_lightning_hooks"


class Trace(L.Callback):
    """What each hook around a batch sees, in order."""

    made: ClassVar[list["Trace"]] = []

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.made.append(self)

    def note(self, name: str, trainer: L.Trainer, module: Any, *more: Any) -> None:
        gradients = [p.grad.clone() for p in module.net.parameters() if p.grad is not None]
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        state = [p.detach().clone() for p in module.net.parameters()]
        self.seen.append((name, trainer.global_step, trainer.current_epoch, rates, gradients, state, *more))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.note("batch_start", trainer, pl_module, batch_idx, images, labels)

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.note("zero_grad", trainer, pl_module, type(optimizer))

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        self.note("before_backward", trainer, pl_module, loss.detach())

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.note("after_backward", trainer, pl_module)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.note("optimizer_step", trainer, pl_module, type(optimizer))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.note("batch_end", trainer, pl_module, batch_idx, outputs["loss"].detach(), batch[0], len(batch[1]))


@pytest.mark.parametrize(
    "more",
    [
        ("scheduler=cosine",),
        ("scheduler=onecycle", "trainer.gradient_clip_val=0.1"),
        ("scheduler=cosine", "trainer.accumulate_grad_batches=4", "data.limit=284"),  # 256 to train: even windows
        ("scheduler=cosine", "optimizer=lbfgs", "data.batch_size=90"),
    ],
    ids=["plain", "clipped", "accumulated", "lbfgs"],
)
def test_hooks_see_what_they_see_in_stock_lightning(
    run_train: RunTrain, compose: Compose, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """The steps, rates, losses, weights and gradients at each of them, bit for bit and in order."""
    settings = (*SETTINGS, *more)
    Trace.made.clear()
    run = run_train(*settings, f"+callbacks.trace._target_={HERE}.Trace")
    expected = Trace()
    module = stock(compose, tmp_path, *settings, callback=expected)
    found = Trace.made[0].seen
    assert [entry[0] for entry in found] == [entry[0] for entry in expected.seen]
    for ours, theirs in zip(found, expected.seen, strict=True):
        assert_equal(ours, theirs)
    assert_same_weights(run, module)


class Counter(L.Callback):
    """Counts batches and images."""

    made: ClassVar[list["Counter"]] = []

    def __init__(self) -> None:
        self.batches = self.images = 0
        self.made.append(self)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1
        self.images += len(batch[0])


class SteppedCounter(Counter):
    """Is told of each step in an execution of many."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches += 1

    def on_optimizer_step(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.batches += 1


def counter() -> Counter:
    """A target that is no class: what it makes shows only when it is called."""
    return Counter()


@pytest.mark.parametrize("target", ["Counter", "counter"])
def test_a_callback_that_needs_every_batch_gets_it_and_the_run_says_so(
    run_train: RunTrain, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    Counter.made.clear()
    run = run_train(*SETTINGS, f"+callbacks.tally._target_={HERE}.{target}")
    assert (Counter.made[-1].batches, Counter.made[-1].images) == (34, 540)
    said = [line for line in caplog.messages if "tally" in line]
    assert said == ["One step an execution: callbacks.tally needs every batch (on_train_batch_end)."]
    assert steps_per_execution(run) == 1


def test_a_callback_with_hooks_of_steps_leaves_executions_long(
    run_train: RunTrain, caplog: pytest.LogCaptureFixture
) -> None:
    Counter.made.clear()
    run = run_train(*SETTINGS, f"+callbacks.tally._target_={HERE}.SteppedCounter", "callbacks=early_stopping")
    assert Counter.made[-1].batches == 34 + 2  # two executions
    assert steps_per_execution(run) > 17 and "One step" not in caplog.text


def steps_per_execution(run: RunDir) -> int:
    return json.loads(run.provenance.read_text())["trainer"]["steps_per_execution"]


def test_many_steps_an_execution_beside_a_callback_that_needs_every_batch_are_refused(
    run_train: RunTrain, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=r"trainer\.steps_per_execution=7: callbacks\.tally has on_train_batch_end, .*; use auto or 1",
    ):
        run_train(*SETTINGS, f"+callbacks.tally._target_={HERE}.Counter", "trainer.steps_per_execution=7")
    assert not (tmp_path / "runs").exists()
