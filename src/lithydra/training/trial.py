"""Steps of training on a copy of a classifier: nothing of it changes, nor torch's random state."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer

from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch, TrainingLoader, TrainingOrder
from lithydra.metrics import TrainedBatch
from lithydra.training.classifier import Classifier
from lithydra.training.compute import flops_of
from lithydra.training.engine import GradientClassifier

TIMED_STEPS = 3  # the fastest counts: on a busy machine a single one may take a hundred times as long
TIMED_SECONDS = 0.5  # of fewer steps, where they are long


def first_batch(data: ImageDataModule, trainer: L.Trainer) -> TrainingBatch:
    """The first of training, or a process's share of it, on the trainer's device, as one that ends in a step."""
    assert data.train is not None
    order = TrainingOrder(len(data.train), data.batch_size, data.seed, 0, trainer.world_size)
    batch = next(next(iter(TrainingLoader(data.train, order))).batches())
    device = trainer.strategy.root_device
    return batch._replace(images=batch.images.to(device), labels=batch.labels.to(device), is_last=True)


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


def flops_of_a_step(copied: Classifier, batch: TrainingBatch) -> int:
    return flops_of(lambda: step(copied, batch))


def seconds_of_a_step(copied: Classifier, batch: TrainingBatch, trial_seconds: float = 0.0) -> float:
    """Of the fastest of a few steps, of fewer where they are long; or the mean over a given time."""
    times: list[float] = []
    while sum(times) < trial_seconds or (len(times) < TIMED_STEPS and sum(times) < TIMED_SECONDS):
        start = time.perf_counter()
        step(copied, batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sum(times) / len(times) if trial_seconds else min(times)


def step(copied: Classifier, batch: TrainingBatch) -> TrainedBatch | None:
    if isinstance(copied, GradientClassifier):
        return copied.train_on(batch)[0]
    copied.loss(copied(batch.images), batch.labels)
    return None
