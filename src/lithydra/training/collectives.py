"""What several processes that train one model tell each other."""

from typing import Any, TypeVar

import lightning as L
import torch

T = TypeVar("T")


def gathered(value: T, trainer: L.Trainer) -> list[T]:
    """The value of each process, by rank. All must call it."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
