"""A LightningModule of a person's own in a run: Lightning's loop trains it, and the run is kept as any other.

It needs to know nothing of lithydra. What it logs is what the run goes by.
"""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError, refuse
from lithydra.training import position
from lithydra.training.divergence import all_finite, loss_diverged, state_diverged
from lithydra.training.instantiate import make
from lithydra.training.lightning_inside import (
    add_logged_sums,
    finished_epochs,
    forget_metrics,
    logged_sums,
    take_plateaus,
)
from lithydra.training.optimization import make_scheduler
from lithydra.training.own_random import random_state, set_random_state, untouched
from lithydra.training.own_settings import by_hand, received, unreceived

log = logging.getLogger(__name__)

CHECKED_BATCHES = 50  # of which the losses are looked at together: each look waits for the device


def make_module(config: DictConfig, data: Any) -> L.LightningModule:
    """The module; its constructor gets what it has a parameter for.

    in_shape (C, H, W) and num_classes of the data; `lr`; `optimizer` and `scheduler` as functions, of parameters and of
    an optimizer (None without a schedule).

    Raises:
        ConfigError: It has no parameter for what was chosen, and the run would be recorded as if it had.
    """
    offered: dict[str, Any] = {"optimizer": make(config, "optimizer"), "scheduler": None, "lr": config.lr}
    if isinstance(data, ImageDataModule):
        offered |= {"in_shape": data.image_shape, "num_classes": data.num_classes}
        if config.scheduler:
            offered["scheduler"] = _scheduler(config, data.num_training_batches)
    if not config.resume:  # an older run may have such settings, and goes on without them
        refuse(unreceived(config, offered))
    return _made(config, offered)


def module_like(config: DictConfig, facts: dict[str, Any]) -> L.LightningModule:
    """The module of a run, to be filled with its checkpoint's weights."""
    offered: dict[str, Any] = {"optimizer": make(config, "optimizer"), "scheduler": None, "lr": config.lr}
    if facts["image_shape"]:
        offered |= {"in_shape": tuple(facts["image_shape"]), "num_classes": len(facts["class_names"])}
    return _made(config, offered)


def _made(config: DictConfig, offered: dict[str, Any]) -> L.LightningModule:
    module = make(config, "module", **received(config, offered))
    if not isinstance(module, L.LightningModule):
        raise ConfigError(
            f"module._target_={config.module._target_}: makes a {type(module).__name__}, no LightningModule"
        )
    return module


def _scheduler(config: DictConfig, batches_per_epoch: int) -> Any:
    steps = -(-batches_per_epoch // config.trainer.accumulate_grad_batches)

    def scheduler(optimizer: Optimizer) -> Any:
        return make_scheduler(config, optimizer, steps)

    return scheduler


def refuse_unsafe_hyperparameters(module: L.LightningModule) -> None:
    """Raise ConfigError for what `save_hyperparameters` keeps and no checkpoint can be trusted with."""
    for name, value in module.hparams.items():
        file = io.BytesIO()
        try:
            torch.save(value, file)
            torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        except Exception as error:  # whatever pickle makes of it
            raise ConfigError(
                f"module: its hyperparameter {name} ({type(value).__name__}) is neither a plain value nor a tensor; "
                f"self.save_hyperparameters(ignore=[{name!r}]) leaves it out"
            ) from error


def try_out(config: DictConfig, data: Any, module: L.LightningModule, place: L.Trainer) -> list[str]:
    """One batch of training and validation on a copy; returns the names that it logs.

    Raises:
        ConfigError: It cannot be trained here, or keeps hyperparameters that no checkpoint can hold.
    """
    if place.world_size > 1:
        raise ConfigError(f"trainer.devices={config.trainer.devices}: a module of one's own trains in one process")
    refuse_unsafe_hyperparameters(module)
    refuse(by_hand(config, module))
    for key in ("every_n_steps", "every_seconds") if not isinstance(data, ImageDataModule) else ():
        if config.checkpoint[key] is not None:
            given = f"checkpoint.{key}={config.checkpoint[key]}"
            raise ConfigError(f"{given}: within an epoch a loader of one's own cannot go on; each epoch's end is saved")
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(
        fast_dev_run=1,
        accelerator=config.trainer.accelerator,
        devices=1,
        precision=place.precision,
        use_distributed_sampler=False,
        **quiet,
    )
    with untouched(), _silent():
        trainer.fit(copy.deepcopy(module), datamodule=data)
    return sorted(logged(trainer))


@contextmanager
def _silent() -> Iterator[None]:
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        lightning.setLevel(level)


def logged(trainer: L.Trainer) -> dict[str, float]:
    """What the module has logged of the epoch at hand, by name: single numbers, of an epoch where there are both."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
    doubled = {f"{name}{end}" for name in values for end in ("_step", "_epoch")}
    return {name: value for name, value in values.items() if name not in doubled}


class OwnModule(Checkpoint):  # a Checkpoint, so that it runs when the epoch's metrics are known
    """What a classifier does for its run by itself: record, metrics of the epoch, guard, and exact resuming.

    Args:
        record: Config and data, as plain values.
        metric_names: What the module logs.
        exact: Whether the data hand out the same batches when a run is resumed.
    """

    def __init__(self, record: dict[str, Any], metric_names: list[str], exact: bool) -> None:
        self.record, self.metric_names, self.exact = record, metric_names, exact
        self.epoch_metrics: dict[str, float] = {}
        self.num_images: int | None = None  # trained in the epoch, where it is known
        self._losses: list[Tensor] = []
        self._logged: dict[str, list[Any]] = {}  # of the epoch, before the run was stopped in it
        self._random_state: dict[str, Any] | None = None
        self._trainer: L.Trainer | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self._observers = [c.on_optimizer_step for c in callbacks if hasattr(c, "on_optimizer_step")]
        self._step = trainer.global_step
        self._step_plateaus = take_plateaus(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._random_state is None:
            return
        set_random_state(self._random_state)
        self._random_state = None
        if not self.exact:
            log.warning("The data are shuffled by a loader of your own: the run goes on in another order of images")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        forget_metrics(trainer)
        self.epoch_metrics = {}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._logged:
            add_logged_sums(trainer, self._logged)
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach())
        if len(self._losses) == CHECKED_BATCHES:
            self._refuse_broken_losses(trainer)
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            for observe in self._observers:
                observe(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._refuse_broken_losses(trainer)
        self.epoch_metrics = {**logged(trainer), "lr": _lr(trainer)}
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(data, ImageDataModule) and data.train is not None:
            self.num_images = min(len(data.train), data.num_training_batches * data.batch_size)
        self._step_plateaus()  # before what saves: Lightning would do it after that, and after a resume not at all

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to every logger."""
        for logger in self._trainer.loggers if self._trainer else ():
            logger.log_metrics(values, step=step)

    def _refuse_broken_losses(self, trainer: L.Trainer) -> None:
        losses, self._losses = self._losses, []
        if losses and not all_finite(losses):
            raise loss_diverged(trainer.global_step, _lr(trainer), self._saved_step())

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._refuse_broken_losses(trainer)
        named = [(name, p.detach()) for name, p in pl_module.named_parameters()]  # a buffer may be infinite: a mask is
        if named and not all_finite([value for _, value in named]):
            raise state_diverged(named, trainer.global_step, _lr(trainer), self._saved_step())
        place = position.progress(trainer) if self.exact else {"epochs": finished_epochs(trainer), "batches": 0}
        logged = logged_sums(trainer) if place["batches"] else {}
        progress = {**place, "steps": trainer.global_step, "epoch_metrics": self.epoch_metrics, "logged": logged}
        checkpoint["record"] = {**self.record, "progress": {**progress, "random_state": random_state()}}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["record"]["progress"]
        self.epoch_metrics, self._random_state = progress["epoch_metrics"], progress["random_state"]
        self._logged = progress["logged"]

    def _saved_step(self) -> int | None:
        """That of last.ckpt."""
        callbacks: Any = self._trainer.callbacks if self._trainer else ()  # pyright: ignore[reportAttributeAccessIssue]
        return next((c.saved_step for c in callbacks if hasattr(c, "saved_step")), None)


def _lr(trainer: L.Trainer) -> float:
    return trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0


def test(trainer: L.Trainer, module: L.LightningModule, data: Any, state: dict[str, Any]) -> dict[str, float]:
    """What the module logs of the test split, with these weights; nothing where it has no test step."""
    module.load_state_dict(state)
    forget_metrics(trainer)
    if lacking := missing("test", module, data):
        log.info("Not tested: %s", lacking)
        return {}
    trainer.test(module, datamodule=data, verbose=False)
    return logged(trainer)


def missing(what: str, module: L.LightningModule, data: Any) -> str | None:
    """Why there is no test, or validation, if there is none: who lacks its step or its loader."""
    loader = {"test": "test_dataloader", "validation": "val_dataloader"}[what]
    for owner, method in ((module, f"{what}_step"), (data, loader)):
        if not is_overridden(method, owner):
            return f"{type(owner).__name__} has no {method}"
    return None
