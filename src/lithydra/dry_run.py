"""One training step on a copy, before the first epoch: does everything fit together, and what does it cost?"""

import copy
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lithydra.classifier import Classifier
from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingLoader, TrainingOrder
from lithydra.errors import ConfigError
from lithydra.gradient_classifier import GradientClassifier
from lithydra.statistics_classifier import StatisticsClassifier

CHUNK_SECONDS = 0.5  # long beside the 2 to 4 ms that a chunk costs, short enough to do again where it diverged
MAX_STEPS = 1024  # bounds the logits that a chunk keeps
TIMED_STEPS = 3  # the fastest counts: on a busy machine a single one may take a hundred times as long


def dry_run(
    module: Classifier, data: ImageDataModule, device: torch.device, world_size: int = 1
) -> tuple[dict[str, tuple[int, ...]], float]:
    """Forward and backward on a copy of `module` with the first training batch, or with a process's share of it.

    Nothing is left changed: not the weights, not the statistics of BatchNorm, not torch's random state.

    Returns:
        The output shape of each layer of the net without the batch dimension, and the seconds that a step takes.

    Raises:
        ConfigError: Net, loss and data do not fit together.
    """
    assert data.train is not None
    order = TrainingOrder(len(data.train), data.batch_size, data.seed, 0, world_size)
    batch = next(next(iter(TrainingLoader(data.train, order))).batches())
    images, labels = batch.images.to(device), batch.labels.to(device)
    with torch.random.fork_rng():
        trial = copy.deepcopy(module).to(device).train()
        if isinstance(trial, GradientClassifier):
            trial.make_optimizer_and_scheduler(data.num_training_batches)  # refuses what they do not take
        shapes = _record_shapes(trial.net)
        try:
            _step(trial, images, labels)
            seconds = min(_timed(lambda: _step(trial, images, labels)) for _ in range(TIMED_STEPS))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"model and data do not fit together: images {tuple(images.shape)}, {data.num_classes} classes: "
                f"{str(error).splitlines()[0]}"
            ) from error
        _try_last_batch(trial, data, images, labels, world_size)
    return shapes, seconds


def _try_last_batch(trial: Classifier, data: ImageDataModule, images: Tensor, labels: Tensor, world_size: int) -> None:
    """An epoch's last batch may be smaller, and a process's share of it; BatchNorm cannot train on a single image."""
    assert data.train is not None
    size = min(data.batch_size, len(data.train) - (data.num_training_batches - 1) * data.batch_size)
    share = max(1, size // world_size)  # the smallest
    if share == len(images):
        return
    try:
        _step(trial, images[:share], labels[:share])
    except (RuntimeError, ValueError) as error:
        shared = f", {share} for one of {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"data.batch_size={data.batch_size}: the last batch of the {len(data.train):,} training images has {size}"
            f"{shared}, which the model does not take ({str(error).splitlines()[0]}); choose another batch size"
        ) from error


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _step(module: Classifier, images: Tensor, labels: Tensor) -> None:
    loss: Tensor = module.loss(module(images), labels)
    if not isinstance(module, StatisticsClassifier):
        loss.backward()


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
