"""Promise 18: what callbacks log, and loggers are told, against stock Lightning."""

from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from conftest import Compose, RunTrain
from lithydra.training.resuming import resumed
from lithydra.training.train import train
from stock_training import LIGHTNING, SETTINGS, stock

PROMISE = "18. Hooks tell the truth"

HERE = "test_lightning_logging"


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
