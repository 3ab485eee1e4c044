"""Nearest-mean classifier: no gradient, one pass over the training data."""

import math
from typing import Literal

import torch
from torch import Tensor, nn


class NearestMean(nn.Module):
    """Compares an image with the mean image of each class; the logits are the negative distances.

    Args:
        in_shape: (C, H, W) of one image.
        num_classes: number of logits; 1 stands for two classes, with the difference of their two logits.
        distance: l1 (mean absolute difference of the pixels) or l2 (root of the mean squared difference).
    """

    # A class without images must never be the nearest one, and an infinity would make the loss NaN.
    unseen_distance = 1e4

    sums: Tensor
    counts: Tensor

    def __init__(
        self, *, in_shape: tuple[int, int, int], num_classes: int, distance: Literal["l1", "l2"] = "l1"
    ) -> None:
        super().__init__()
        self.distance = distance
        self.num_classes = num_classes
        num_means = max(num_classes, 2)
        self.register_buffer("sums", torch.zeros(num_means, math.prod(in_shape)))
        self.register_buffer("counts", torch.zeros(num_means, dtype=torch.long))

    @torch.no_grad()
    def fit_batch(self, images: Tensor, labels: Tensor) -> None:
        """Adds images (B, C, H, W) float with labels (B,) int64 to the sums of their classes."""
        self.sums.index_add_(0, labels, images.flatten(1).to(self.sums.dtype))
        self.counts += labels.bincount(minlength=len(self.counts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        x = x.flatten(1)
        means = self.sums / self.counts.clamp(min=1)[:, None]
        # One class at a time: all at once would take (B, num_classes, C * H * W) floats.
        differences = (x - mean for mean in means)
        if self.distance == "l1":
            distances = torch.stack([difference.abs().mean(1) for difference in differences], dim=1)
        else:
            distances = torch.stack([difference.square().mean(1).sqrt() for difference in differences], dim=1)
        logits = -distances.masked_fill(self.counts == 0, self.unseen_distance)
        return logits[:, 1:] - logits[:, :1] if self.num_classes == 1 else logits
