"""One training step on a copy, before the first epoch: does everything fit together, and what does it cost?"""

import copy
import inspect
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch, TrainingLoader, TrainingOrder
from lithydra.errors import ConfigError, first_line
from lithydra.training.batch_hooks import refuse_unsupported, steps_beside
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier
from lithydra.training.instantiate import refuse_unknown_arguments, targets
from lithydra.training.statistics import StatisticsClassifier

# Long beside the 2 to 4 ms that a chunk costs, short beside an epoch: at a chunk's end the losses are looked at, and
# several processes agree on signals and on saves by time. A single process heeds those at each step.
CHUNK_SECONDS = 0.5
MAX_STEPS = 1024  # bounds the logits that a chunk keeps
TIMED_STEPS = 3  # the fastest counts: on a busy machine a single one may take a hundred times as long


def try_out(config: DictConfig, data: ImageDataModule, module: Classifier, trainer: L.Trainer) -> None:
    """One step on a copy: refuses what does not fit together, and settles how many steps go into an execution."""
    for key in ("callbacks", "logger"):  # these are made when there is a run directory
        refuse_unknown_arguments(key, config[key])
    _refuse_less_than_a_batch(config, data, trainer.world_size)
    if trainer.world_size > 1 and isinstance(module, StatisticsClassifier):
        raise ConfigError(f"model: {type(module.net).__name__} learns in one process; trainer.devices=1")
    refuse_unsupported(callbacks := targets(config, "callbacks"))
    module.layer_shapes, seconds = dry_run(module, data, trainer)
    steps = steps_per_execution(config.trainer, seconds)
    data.steps_per_execution = steps_beside(callbacks, steps, config.trainer.steps_per_execution)


def _refuse_less_than_a_batch(config: DictConfig, data: ImageDataModule, world_size: int) -> None:
    """A part of a split's batches that comes to none; of evaluation batches, a process has those of its share alone."""
    assert data.train is not None and data.test is not None
    splits = {"train": (len(data.train), data.batch_size), "test": (len(data.test) // world_size, data.eval_batch_size)}
    if data.val is not None:
        splits["val"] = (len(data.val) // world_size, data.eval_batch_size)
    for split, (num_images, batch_size) in splits.items():
        part, count = config.trainer.get(f"limit_{split}_batches"), max(1, -(-num_images // batch_size))
        if isinstance(part, float) and int(part * count) < 1:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            each = f" in each of {world_size} processes" if world_size > 1 and split != "train" else ""
            limit = f"trainer.limit_{split}_batches={part}"
            raise ConfigError(f"{limit}: less than one of {count} batches{each}; a smaller {key} makes more")


def dry_run(module: Classifier, data: ImageDataModule, trainer: L.Trainer) -> tuple[dict[str, tuple[int, ...]], float]:
    """Some training steps on a copy of `module` with the first training batch, or with a process's share of it.

    They are on the device, in the precision and for the number of processes of `trainer`.

    Returns:
        The output shape of each layer of the net without the batch dimension, and the seconds that a step takes.

    Raises:
        ConfigError: Net, loss and data do not fit together.
    """
    assert data.train is not None
    world_size, device = trainer.world_size, trainer.strategy.root_device
    order = TrainingOrder(len(data.train), data.batch_size, data.seed, 0, world_size)
    batch = next(next(iter(TrainingLoader(data.train, order))).batches())
    batch = batch._replace(images=batch.images.to(device), labels=batch.labels.to(device), is_last=True)
    with trial(module, data, trainer) as (copied, _):
        shapes = _record_shapes(copied.net)
        try:
            _refuse_wrong_outputs(copied, batch.images)
            seconds = _seconds_of_a_step(copied, batch)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"model and data do not fit together: images {tuple(batch.images.shape)}, {data.num_classes} "
                f"classes: {first_line(error)}{_place(error, copied.net)}"
            ) from error
        _try_last_batch(copied, data, batch, world_size)
    return shapes, seconds


@contextmanager
def trial(
    module: Classifier, data: ImageDataModule, trainer: L.Trainer
) -> Iterator[tuple[Classifier, Optimizer | None]]:
    """A copy of `module` to train steps on, and its optimizer if it has one; on the trainer's device, in its precision.

    Neither the weights and statistics of `module` change, nor torch's random state.
    """
    precision, optimizer = trainer.precision_plugin, None
    with torch.random.fork_rng(), precision.train_step_context():
        copied: Any = precision.convert_module(copy.deepcopy(module).to(trainer.strategy.root_device)).train()
        if isinstance(copied, GradientClassifier):
            optimizer, _ = copied.make_optimizer_and_scheduler(data.num_training_batches)
            copied.prepare(optimizer, scaler=getattr(precision, "scaler", None))
        yield copied, optimizer


def _refuse_wrong_outputs(copied: Classifier, images: Tensor) -> None:
    """The net must give logits (B, num_classes), or (B, 1) where the loss wants a single one, in both modes."""
    expected = (len(images), 1 if getattr(copied.loss, "single_logit", False) else copied.num_classes)
    for mode in (False, True):
        copied.train(mode)
        with torch.no_grad():
            logits: object = copied(images)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if found != expected:
            raise ConfigError(
                f"model: {type(copied.net).__name__} gives {found} for {len(images)} images and {copied.num_classes} "
                f"classes; with this loss it must give {expected}"
            )


def _place(error: BaseException, net: nn.Module) -> str:
    """` (FILE, line N: CODE)`: the last line of the net's own code that an error passed, if it passed any."""
    classes = {type(layer) for layer in net.modules() if not type(layer).__module__.startswith("torch.")}
    files = {inspect.getsourcefile(layer) for layer in classes}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _try_last_batch(copied: Classifier, data: ImageDataModule, batch: TrainingBatch, world_size: int) -> None:
    """An epoch's last batch may be smaller, and a process's share of it; BatchNorm cannot train on a single image."""
    assert data.train is not None
    size = min(data.batch_size, len(data.train) - (data.num_training_batches - 1) * data.batch_size)
    share = max(1, size // world_size)  # the smallest
    if share == len(batch.images):
        return
    try:
        _step(copied, batch._replace(images=batch.images[:share], labels=batch.labels[:share]))
    except (RuntimeError, ValueError) as error:
        shared = f", {share} for one of {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"data.batch_size={data.batch_size}: the last batch of the {len(data.train):,} training images has {size}"
            f"{shared}, which the model does not take ({first_line(error)}); choose another batch size"
        ) from error


def _seconds_of_a_step(copied: Classifier, batch: TrainingBatch) -> float:
    """Of the fastest of a few steps; of fewer where they are long."""
    _step(copied, batch)
    times: list[float] = []
    while len(times) < TIMED_STEPS and sum(times) < CHUNK_SECONDS:
        start = time.perf_counter()
        _step(copied, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def _step(copied: Classifier, batch: TrainingBatch) -> None:
    if isinstance(copied, GradientClassifier):
        copied.train_on(batch)
    else:
        copied.loss(copied(batch.images), batch.labels)


def _record_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])

        return hook

    for name, layer in net.named_modules():
        layer.register_forward_hook(record(name))
    return shapes


def steps_per_execution(trainer: DictConfig, step_seconds: float) -> int:
    """`trainer.steps_per_execution`, or for `auto` as many steps as take `CHUNK_SECONDS`, up to `MAX_STEPS`."""
    if trainer.get("fast_dev_run"):
        return 1  # Lightning counts calls of training_step
    if trainer.steps_per_execution != "auto":
        return trainer.steps_per_execution
    return max(1, min(MAX_STEPS, round(CHUNK_SECONDS / step_seconds)))
