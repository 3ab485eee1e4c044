"""Batches by index: the training order, the loader that hands out chunks of batches, and the evaluation loader."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lithydra.data.splits import Batch, Split


class TrainingOrder:
    """The order of an epoch's batches: a pure function of (seed, epoch), the same in every process.

    A batch of `batch_size` images is divided between the `world_size` processes, so an epoch of DDP sees the images and
    the batches that a single process sees. `accumulated` batches make an optimizer step; the last of an epoch takes
    what is left.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulated: int = 1,
        num_batches: int | None = None,  # an epoch; None: all
    ) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.rank, self.world_size, self.accumulated = rank, world_size, accumulated
        self.num_batches = math.ceil(num_images / batch_size) if num_batches is None else num_batches
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch. A resumed epoch keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def permutation(self, device: torch.device) -> Tensor:
        """(num_images,) int64. Drawn on the CPU, so that every device sees the same order."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.num_images, generator=generator).to(device)

    def remaining_batches(self, device: torch.device) -> list[Tensor]:
        """Positions of each batch from `position` on: this process's share."""
        batches = self.permutation(device).split(self.batch_size)[self.position : self.num_batches]
        if self.world_size == 1:
            return list(batches)
        # Of a batch with fewer images than processes, those without a share get all of it, at weight 0.
        return [b[self.rank :: self.world_size] if len(b) > self.rank else b for b in batches]

    def weight(self, number: int) -> float:
        """Times the mean loss of this process's share of batch `number` (from 1).

        The mean over all processes of the sum over an optimizer step's batches is then the mean over the step's images.
        """
        if self.world_size == self.accumulated == 1:
            return 1.0
        size = min(self.batch_size, self.num_images - (number - 1) * self.batch_size)
        share = max(0, -(-(size - self.rank) // self.world_size))
        first = (number - 1) // self.accumulated * self.accumulated
        end = min(first + self.accumulated, self.num_batches)
        of_the_step = min(end * self.batch_size, self.num_images) - first * self.batch_size
        return self.world_size * share / of_the_step


class TrainingBatch(NamedTuple):
    images: Tensor
    labels: Tensor
    number: int  # in its epoch, from 1
    is_last: bool  # of its epoch
    weight: float  # of its mean loss, see TrainingOrder.weight; 0: these images are another process's
    epoch: int  # from 0
    positions: Tensor  # (B,) int64, of its images in the training split


class Chunk:
    """Consecutive batches of one epoch, for one call of `training_step`; each is gathered when it is asked for.

    A chunk of one batch is also the pair that Lightning's callbacks expect: `images, labels = chunk`.
    """

    def __init__(self, order: TrainingOrder, batches: Iterator[tuple[Batch, Tensor]], stop: int) -> None:
        self._order, self._batches, self._stop = order, batches, stop
        self._start = order.position
        self._only: tuple[Batch, Tensor] | None = None  # where there is one, gathered when it is first asked for

    def batches(self) -> Iterator[TrainingBatch]:
        order = self._order
        source = iter([self._single()]) if self._stop - order.position == 1 else self._batches
        for (images, labels), positions in islice(source, self._stop - order.position):
            order.position += 1
            number = order.position
            weight, is_last = order.weight(number), number == order.num_batches
            yield TrainingBatch(images, labels, number, is_last, weight, order.epoch, positions)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._single()[0])

    def __getitem__(self, index: int) -> Tensor:
        return self._single()[0][index]

    def _single(self) -> tuple[Batch, Tensor]:
        if self._only is None:
            if self._stop - self._start != 1:
                count = self._stop - self._start
                raise TypeError(f"{count} batches: trainer.steps_per_execution=1 gives them one by one")
            self._only = next(self._batches)
        return self._only


class TrainingLoader:
    """Yields an epoch as chunks of `steps_per_execution` batches, from the position that the order stands at.

    The chunks' borders are multiples of `steps_per_execution` from the epoch's start, wherever a resumed epoch begins,
    so the number of chunks an epoch never changes.
    """

    def __init__(self, split: Split, order: TrainingOrder, steps_per_execution: int = 1) -> None:
        self.split, self.sampler, self.steps_per_execution = split, order, steps_per_execution

    def __len__(self) -> int:
        return math.ceil(self.sampler.num_batches / self.steps_per_execution)

    def __iter__(self) -> Iterator[Chunk]:
        # A generator: the order is read at the first `next`, since Lightning calls iter() before set_epoch().
        order, size = self.sampler, self.steps_per_execution
        positions = order.remaining_batches(self.split.indices.device)
        batches = zip(self.split.batches(positions), positions, strict=True)
        while order.position < order.num_batches:
            stop = min((order.position // size + 1) * size, order.num_batches)
            yield Chunk(order, batches, stop)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


class EvaluationLoader:
    """A split in its own order, in batches of at most `batch_size`: this process's share of each."""

    def __init__(self, split: Split, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.split = split
        positions = torch.arange(rank, len(split), world_size, device=split.indices.device)
        self._batches = list(positions.split(batch_size))  # of no positions, one that is empty

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        if len(self._batches[0]):
            return self.split.batches(self._batches)
        return iter([(torch.empty(0), self.split.labels[:0])])  # fewer images than processes
