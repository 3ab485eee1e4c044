"""Penalties on the weights and biases, added to the training loss."""

from collections.abc import Sequence

import torch
from torch import Tensor


def l1(parameters: Sequence[Tensor], weight: float) -> Tensor:
    """`weight` · Σ|w|; its gradient at w = 0 is 0."""
    return weight * norms(parameters, 1).sum()


def l2(parameters: Sequence[Tensor], weight: float) -> Tensor:
    """`weight` · Σw², without a factor ½: with SGD the same as weight_decay = 2 · `weight`."""
    return weight * norms(parameters, 2).square().sum()


def norms(parameters: Sequence[Tensor], order: int) -> Tensor:
    """(number of tensors,): on a GPU one kernel for all, the one that torch's clip_grad_norm_ uses."""
    return torch.stack(torch._foreach_norm(list(parameters), order))  # pyright: ignore[reportPrivateImportUsage]
