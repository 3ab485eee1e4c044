"""Losses: modules that turn logits and targets into one scalar, the mean over the batch.

A loss with `single_logit = True` is for two classes: it takes logits (B, 1), the score of class 1. All others take
logits (B, classes). Targets are class indices (B,), or probabilities (B, classes) from MixUp and CutMix. A loss whose
constructor has a parameter `class_counts` is given the number of training images of each class.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lithydra.errors import ConfigError


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of the softmax, weighted by class: the mean over images of their class's weight times their loss.

    It is divided by the number of images, so that the mean over equal parts of a batch, in several processes or
    accumulated, is that of the batch. Torch divides by the sum of the weights, in which an image counts by what else is
    in its part. Of a smoothed or mixed target, each class's share has that class's weight.

    Args:
        class_counts: Training images of each class, from the data.
        label_smoothing: Part of the target that is spread over all classes, 0 to 1.
        class_weights: One positive number a class; "balanced": images / (classes * images of the class), scikit-learn's
            formula, by which all classes count alike; None: no weights, and torch's numbers bit for bit.
    """

    def __init__(
        self,
        class_counts: Sequence[int],
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
    ) -> None:
        weights = balanced(class_counts) if class_weights == "balanced" else class_weights
        if weights is not None and len(weights) != len(class_counts):
            raise ConfigError(f"loss.class_weights={weights}: must be one number a class, {len(class_counts)} of them")
        super().__init__(
            weight=None if weights is None else torch.tensor(weights, dtype=torch.float32),  # a buffer
            reduction="mean" if weights is None else "sum",
            label_smoothing=label_smoothing,
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(input, target)
        return loss if self.weight is None else loss / len(input)


def balanced(class_counts: Sequence[int]) -> list[float]:
    """A weight for each class; one without images has that of a class with one, so that a validation loss is finite."""
    return [sum(class_counts) / (len(class_counts) * max(1, count)) for count in class_counts]


class BinaryCrossEntropy(nn.Module):
    """Cross-entropy of the sigmoid of one logit."""

    single_logit: bool = True

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.float().squeeze(1), probability_of_class_1(targets))


class ProbabilityL1(nn.Module):
    """Mean of |target - sigmoid(logit)|, in [0, 1]."""

    single_logit: bool = True

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (probability_of_class_1(targets) - logits.float().squeeze(1).sigmoid()).abs().mean()


class Brier(nn.Module):
    """Squared distance between softmax probabilities and one-hot target, in [0, 2].

    Brier, "Verification of forecasts expressed in terms of probability", 1950, equation 2.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == 1:
            targets = F.one_hot(targets, logits.shape[1])
        return (logits.float().softmax(dim=1) - targets).square().sum(dim=1).mean()


def probability_of_class_1(targets: Tensor) -> Tensor:
    """(B,) float in [0, 1], from (B,) integer or float targets or from (B, 2) class probabilities."""
    return (targets[:, 1] if targets.ndim == 2 else targets).float()
