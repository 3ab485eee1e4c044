"""Fully connected networks; without hidden layers, a linear classifier."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lithydra.models import layers


class MLP(nn.Module):
    """Flatten, then per hidden width: linear, [batch norm], activation, [dropout]; a linear layer at the end.

    Args:
        in_shape: (C, H, W) of one image.
        num_classes: number of logits.
        hidden: width of each hidden layer; empty for a linear classifier.
        activation: a name from `layers.ACTIVATIONS`.
        batch_norm: whether each hidden layer is normalized before its activation.
        batch_norm_eps: added to the variance.
        batch_norm_momentum: weight of the newest batch in the running mean and variance, in [0, 1].
        dropout: probability that a hidden unit is dropped, in [0, 1).

    Raises:
        ConfigError: there is no activation of this name.
    """

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
        batch_norm: bool = False,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [math.prod(in_shape), *hidden]
        self.hidden = nn.Sequential()
        for num_inputs, width in pairwise(widths):
            function, pieces = layers.activation(activation)
            block = nn.Sequential(nn.Linear(num_inputs, width * pieces))
            if batch_norm:
                block.append(nn.BatchNorm1d(width * pieces, batch_norm_eps, batch_norm_momentum))
            block.append(function)
            if dropout > 0:
                block.append(nn.Dropout(dropout))
            self.hidden.append(block)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        return self.head(self.hidden(x.flatten(1)))
