"""Losses: modules that turn logits and targets into one scalar, the mean over the batch.

A loss with `single_logit = True` is for two classes: it takes logits (B, 1), the score of class 1. All others take
logits (B, classes). Targets are class indices (B,), or probabilities (B, classes) from MixUp and CutMix.
"""

from torch import Tensor, nn
from torch.nn import functional as F


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
