"""Promise 18: Lightning's own callbacks, and all of its hooks around a batch, against stock Lightning."""

import json
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor

from conftest import SMALL, Compose, RunTrain, assert_equal, checkpoint, rows, weights
from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.training import build
from lithydra.training.engine import GradientClassifier
from lithydra.training.loading import load
from lithydra.training.resuming import resumed
from lithydra.training.train import train

PROMISE = "18. Hooks tell the truth"

HERE = "test_lightning_callbacks"
SETTINGS = (*SMALL, "optimizer=sgd", "lr=0.1")  # 17 batches an epoch, the last of 14 images


class Batches:
    """The training batches that a run sees, as a plain loader."""

    def __init__(self, data: ImageDataModule) -> None:
        self.loader = data.train_dataloader()
        self.sampler = self.loader.sampler

    def __len__(self) -> int:
        return self.sampler.num_batches

    def __iter__(self) -> Iterator[list[Tensor]]:
        for chunk in self.loader:
            yield from ([batch.images, batch.labels] for batch in chunk.batches())


class Stock(L.LightningModule):
    """What a run trains, by Lightning's automatic optimization."""

    def __init__(self, module: GradientClassifier, data: ImageDataModule) -> None:
        super().__init__()
        self.net, self.normalization, self.loss = module.net, module.normalization, module.loss
        self.make = lambda: module.make_optimizer_and_scheduler(data.num_training_batches)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.make()
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(self.normalization(batch[0])), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.net(self.normalization(batch[0]))


def stock(
    compose: Compose, tmp_path: Path, *settings: str, callback: L.Callback, logger: Logger | None = None, **flags: Any
) -> Stock:
    """Stock Lightning after the run that `settings` describe."""
    config = compose(*settings)
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    built = build.classifier(config, data)
    assert isinstance(built, GradientClassifier)
    module = Stock(built, data)
    trainer = L.Trainer(
        max_epochs=config.trainer.max_epochs,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        gradient_clip_val=config.trainer.gradient_clip_val,
        log_every_n_steps=config.trainer.log_every_n_steps,
        num_sanity_val_steps=0,
        accelerator="cpu",
        callbacks=[callback],
        logger=logger or False,
        default_root_dir=tmp_path / "stock",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": isinstance(callback, ModelCheckpoint), **flags},
    )
    trainer.fit(module, Batches(data), data.val_dataloader())
    return module


def assert_same_weights(run: RunDir, module: Stock) -> None:
    state = weights(run)
    assert_equal({key: value for key, value in state.items() if key in module.state_dict()}, dict(module.state_dict()))


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


LIGHTNING = "lightning.pytorch.callbacks"


@pytest.mark.parametrize("every_n_steps", [1, 3])
def test_averaged_weights_are_those_of_stock_lightning(
    run_train: RunTrain, compose: Compose, tmp_path: Path, every_n_steps: int
) -> None:
    """In the checkpoint, and in the validation of each epoch."""
    options = f"decay: 0.9, update_every_n_steps: {every_n_steps}"
    run = run_train(*SETTINGS, f"+callbacks.ema={{_target_: {LIGHTNING}.EMAWeightAveraging, {options}}}")
    callback = EMAWeightAveraging(decay=0.9, update_every_n_steps=every_n_steps)
    assert_same_weights(run, stock(compose, tmp_path, *SETTINGS, callback=callback))
    saved = checkpoint(run.last)
    name = "net.head.weight"
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    data = build.data(compose(*SETTINGS))
    assert data.val is not None
    images, labels = next(iter(data.val_dataloader()))
    accuracy = (load(run.path, "last")(images).argmax(1) == labels).double().mean().item()
    assert float(rows(run)[-1]["val/acc"]) == pytest.approx(accuracy)


def test_steps_are_saved_as_in_stock_lightning(run_train: RunTrain, compose: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    options = f"dirpath: {folder}, every_n_train_steps: 5, save_top_k: -1"
    run_train(*SETTINGS, f"+callbacks.saver={{_target_: {LIGHTNING}.ModelCheckpoint, {options}}}")
    saver = ModelCheckpoint(tmp_path / "stock", every_n_train_steps=5, save_top_k=-1)
    stock(compose, tmp_path, *SETTINGS, callback=saver)
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in (tmp_path / "stock").glob("*.ckpt")} and len(names) == 6
    for name in names:
        ours, theirs = (torch.load(path / name, weights_only=False) for path in (folder, tmp_path / "stock"))
        assert ours["global_step"] == theirs["global_step"] and ours["epoch"] == theirs["epoch"]
        for key, value in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], value)


class Told(CSVLogger):
    """Keeps what it is given, by name and step."""

    made: ClassVar[list["Told"]] = []

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self.values: dict[tuple[str, int], float] = {}
        self.made.append(self)

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.values |= {(name, step or 0): float(value) for name, value in metrics.items()}


class Logs(L.Callback):
    """Logs by `self.log` from hooks around batches and epochs."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.log("callback/step", float(trainer.global_step), on_step=True, on_epoch=True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.log("callback/epoch", float(trainer.global_step))


class EpochLogs(L.Callback):
    """Needs no batch."""

    on_train_epoch_end = Logs.on_train_epoch_end


TOLD: dict[str, tuple[str, L.Callback, str]] = {
    "rates": (f"{LIGHTNING}.LearningRateMonitor", LearningRateMonitor(), "lr-SGD"),
    "self.log": (f"{HERE}.Logs", Logs(), "callback/"),
    "self.log of an epoch": (f"{HERE}.EpochLogs", EpochLogs(), "callback/"),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("target", "callback", "prefix"), TOLD.values(), ids=TOLD.keys())
def test_loggers_are_told_the_steps_of_stock_lightning(
    run_train: RunTrain,
    compose: Compose,
    tmp_path: Path,
    accumulate: int,
    target: str,
    callback: L.Callback,
    prefix: str,
) -> None:
    Told.made.clear()
    settings = (
        *(*SETTINGS, "scheduler=cosine", "trainer.log_every_n_steps=5"),
        f"trainer.accumulate_grad_batches={accumulate}",
    )
    told = f"+logger.told={{_target_: {HERE}.Told, save_dir: {tmp_path}}}"
    run_train(*settings, f"+callbacks.one._target_={target}", told)
    stock(compose, tmp_path, *settings, callback=callback, logger=Told(str(tmp_path)))
    ours, theirs = ({k: v for k, v in logger.values.items() if k[0].startswith(prefix)} for logger in Told.made)
    assert ours == theirs and len(ours) >= 2


def test_a_resumed_run_logs_on_where_it_stopped(
    run_train: RunTrain, compose: Compose, tmp_path: Path, data_dir: Path
) -> None:
    Told.made.clear()
    settings = (*SETTINGS, "trainer.log_every_n_steps=5")
    told = f"+logger.told={{_target_: {HERE}.Told, save_dir: {tmp_path}}}"
    run = run_train(*settings, f"+callbacks.one._target_={HERE}.Logs", told, "trainer.max_epochs=1")
    again = (f"resume={run.path}", "trainer.max_epochs=2", f"trust=[{HERE}]", told)
    train(resumed(run, compose(*again), list(again)), {"data": "digits", "model": "mlp"}, list(again))
    ours = Told.made[0].values | Told.made[1].values
    stock(compose, tmp_path, *settings, callback=Logs(), logger=Told(str(tmp_path)))
    theirs = {key: value for key, value in Told.made[2].values.items() if key[0] != "epoch"}
    assert {key: ours[key] for key in theirs} == theirs and len(theirs) > 8
    assert max(step for name, step in ours if name.startswith("callback/")) == 33


def test_timer_stops_where_it_does_in_stock_lightning(
    run_train: RunTrain, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that ticks once a step."""

    def wind_up() -> None:
        ticks = count()
        monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": next(ticks))

    wind_up()
    run = run_train(*SETTINGS, f"+callbacks.timer={{_target_: {LIGHTNING}.Timer, duration: {{seconds: 5}}}}")
    wind_up()
    assert_same_weights(run, stock(compose, tmp_path, *SETTINGS, callback=Timer(timedelta(seconds=5))))
    assert checkpoint(run.last)["global_step"] == 5


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


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [
        ("StochasticWeightAveraging", "swa_lrs: 0.01", "EMAWeightAveraging and WeightAveraging work"),
        ("GradientAccumulationScheduler", "scheduling: {0: 2}", r"use trainer\.accumulate_grad_batches"),
        ("LearningRateFinder", "min_lr: 0.1", r"use scripts/lr_find\.py"),
        ("BatchSizeFinder", "init_val: 2", r"use data\.batch_size"),
    ],
)
def test_callbacks_that_decide_what_the_loop_decides_are_refused(
    run_train: RunTrain, tmp_path: Path, name: str, options: str, advice: str
) -> None:
    with pytest.raises(ConfigError, match=rf"callbacks\.mine: {name} does not work here: .*{advice}"):
        run_train(*SETTINGS, f"+callbacks.mine={{_target_: {LIGHTNING}.{name}, {options}}}")
    assert not (tmp_path / "runs").exists()
