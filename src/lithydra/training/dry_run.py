"""One training step on a copy, before the first epoch: does everything fit together, and what does it cost?"""

import copy
import inspect
import time
import traceback
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch, TrainingLoader, TrainingOrder
from lithydra.errors import ConfigError
from lithydra.training.batch_hooks import refuse_unsupported, steps_beside
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier
from lithydra.training.instantiate import first_line, refuse_unknown_arguments, targets
from lithydra.training.statistics import StatisticsClassifier

CHUNK_SECONDS = 0.5  # long beside the 2 to 4 ms that a chunk costs, short enough to do again where it diverged
MAX_STEPS = 1024  # bounds the logits that a chunk keeps
TIMED_STEPS = 3  # the fastest counts: on a busy machine a single one may take a hundred times as long


def try_out(config: DictConfig, data: ImageDataModule, module: Classifier, trainer: L.Trainer) -> None:
    """One step on a copy: refuses what does not fit together, and settles how many steps go into an execution."""
    for key in ("callbacks", "logger"):  # these are made when there is a run directory
        refuse_unknown_arguments(key, config[key])
    _refuse_less_than_a_batch(config, data)
    if trainer.world_size > 1 and isinstance(module, StatisticsClassifier):
        raise ConfigError(f"model: {type(module.net).__name__} learns in one process; trainer.devices=1")
    refuse_unsupported(callbacks := targets(config, "callbacks"))
    module.layer_shapes, seconds = dry_run(module, data, trainer)
    steps = steps_per_execution(config.trainer, seconds)
    data.steps_per_execution = steps_beside(callbacks, steps, config.trainer.steps_per_execution)


def _refuse_less_than_a_batch(config: DictConfig, data: ImageDataModule) -> None:
    """A part of a split's batches that comes to none."""
    assert data.train is not None and data.test is not None
    splits = {"train": (len(data.train), data.batch_size), "test": (len(data.test), data.eval_batch_size)}
    if data.val is not None:
        splits["val"] = (len(data.val), data.eval_batch_size)
    for split, (num_images, batch_size) in splits.items():
        part, count = config.trainer.get(f"limit_{split}_batches"), -(-num_images // batch_size)
        if isinstance(part, float) and int(part * count) < 1:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            raise ConfigError(
                f"trainer.limit_{split}_batches={part}: less than one of {count} batches; a smaller {key} makes more"
            )


def dry_run(module: Classifier, data: ImageDataModule, trainer: L.Trainer) -> tuple[dict[str, tuple[int, ...]], float]:
    """Some training steps on a copy of `module` with the first training batch, or with a process's share of it.

    They are on the device, in the precision and for the number of processes of `trainer`. Neither weights, nor
    statistics of BatchNorm, nor torch's random state change.

    Returns:
        The output shape of each layer of the net without the batch dimension, and the seconds that a step takes.

    Raises:
        ConfigError: Net, loss and data do not fit together.
    """
    assert data.train is not None
    precision, world_size, device = trainer.precision_plugin, trainer.world_size, trainer.strategy.root_device
    order = TrainingOrder(len(data.train), data.batch_size, data.seed, 0, world_size)
    batch = next(next(iter(TrainingLoader(data.train, order))).batches())
    batch = batch._replace(images=batch.images.to(device), labels=batch.labels.to(device), is_last=True)
    with torch.random.fork_rng():
        trial: Any = precision.convert_module(copy.deepcopy(module).to(device)).train()
        if isinstance(trial, GradientClassifier):
            optimizer, _ = trial.make_optimizer_and_scheduler(data.num_training_batches)
            trial.prepare(optimizer, scaler=getattr(precision, "scaler", None))
        shapes = _record_shapes(trial.net)
        with precision.train_step_context():
            try:
                _refuse_wrong_outputs(trial, batch.images)
                seconds = _seconds_of_a_step(trial, batch)
            except (RuntimeError, ValueError, IndexError) as error:
                raise ConfigError(
                    f"model and data do not fit together: images {tuple(batch.images.shape)}, {data.num_classes} "
                    f"classes: {first_line(error)}{_place(error, trial.net)}"
                ) from error
            _try_last_batch(trial, data, batch, world_size)
    return shapes, seconds


def _refuse_wrong_outputs(trial: Classifier, images: Tensor) -> None:
    """The net must give logits (B, num_classes), or (B, 1) where the loss wants a single one, in both modes."""
    expected = (len(images), 1 if getattr(trial.loss, "single_logit", False) else trial.num_classes)
    for mode in (False, True):
        trial.train(mode)
        with torch.no_grad():
            logits: object = trial(images)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if found != expected:
            raise ConfigError(
                f"model: {type(trial.net).__name__} gives {found} for {len(images)} images and {trial.num_classes} "
                f"classes; with this loss it must give {expected}"
            )


def _place(error: BaseException, net: nn.Module) -> str:
    """` (FILE, line N: CODE)`: the last line of the net's own code that an error passed, if it passed any."""
    classes = {type(layer) for layer in net.modules() if not type(layer).__module__.startswith("torch.")}
    files = {inspect.getsourcefile(layer) for layer in classes}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _try_last_batch(trial: Classifier, data: ImageDataModule, batch: TrainingBatch, world_size: int) -> None:
    """An epoch's last batch may be smaller, and a process's share of it; BatchNorm cannot train on a single image."""
    assert data.train is not None
    size = min(data.batch_size, len(data.train) - (data.num_training_batches - 1) * data.batch_size)
    share = max(1, size // world_size)  # the smallest
    if share == len(batch.images):
        return
    try:
        _step(trial, batch._replace(images=batch.images[:share], labels=batch.labels[:share]))
    except (RuntimeError, ValueError) as error:
        shared = f", {share} for one of {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"data.batch_size={data.batch_size}: the last batch of the {len(data.train):,} training images has {size}"
            f"{shared}, which the model does not take ({first_line(error)}); choose another batch size"
        ) from error


def _seconds_of_a_step(trial: Classifier, batch: TrainingBatch) -> float:
    """Of the fastest of a few steps; of fewer where they are long."""
    _step(trial, batch)
    times: list[float] = []
    while len(times) < TIMED_STEPS and sum(times) < CHUNK_SECONDS:
        start = time.perf_counter()
        _step(trial, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def _step(trial: Classifier, batch: TrainingBatch) -> None:
    if isinstance(trial, GradientClassifier):
        trial.train_on(batch)
    else:
        trial.loss(trial(batch.images), batch.labels)


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
