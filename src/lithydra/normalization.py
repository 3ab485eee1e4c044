"""Normalization: pixels to what the net sees, with constants from the training split alone.

The functions are what `normalization=` names. Each takes the training images, (N, C, H, W) uint8.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lithydra.errors import ConfigError

CHUNK_IMAGES = 8192  # bounds the memory that statistics take: one chunk of one channel is copied at a time


class Normalization(nn.Module):
    """(x - mean) / std by channel, on whatever device the images are.

    Args:
        mean: C numbers, in units of pixels scaled to [0, 1].
        std: C numbers above 0, in the same units.
    """

    mean: Tensor
    std: Tensor
    offset_255: Tensor
    scale_255: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))
        self._fold()

    def forward(self, images: Tensor) -> Tensor:
        """Normalizes (B, C, H, W), uint8 or float in [0, 1], to the module's type in the same memory format."""
        if images.is_floating_point():
            mean = self.mean
            return images.to(mean.dtype).sub(mean).div_(self.std)
        scale = self.scale_255
        x = images.to(scale.dtype)
        if self.centered:
            x.sub_(self.offset_255)
        return x.mul_(scale)

    def _fold(self) -> None:
        """Takes the 1/255 of uint8 into the constants, so that it costs nothing in the training loop."""
        self.centered = bool(self.mean.any())
        mean, std = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (self.mean, self.std))
        self.register_buffer("offset_255", (255 * mean).to(self.mean.dtype), persistent=False)
        self.register_buffer("scale_255", (1 / (255 * std)).to(self.std.dtype), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Normalization":
        """Move or convert, and fold what has come of mean and std: as loading does, in whatever type that is."""
        super()._apply(fn, recurse)
        self._fold()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fold()


def none(images: Tensor) -> Normalization:
    """Raw pixels, 0 to 255."""
    return _same_for_all_channels(images, 0.0, 1 / 255)


def tiny(images: Tensor) -> Normalization:
    """Pixels ÷ (255 · 10000): inputs so small that a net without BatchNorm hardly learns."""
    return _same_for_all_channels(images, 0.0, 10000.0)


def min_max(images: Tensor) -> Normalization:
    """(x - min) / (max - min) over all channels: [0, 1] on the training split.

    Raises:
        ConfigError: All pixels are equal.
    """
    values = pixel_counts(images).sum(dim=0).nonzero()
    low, high = int(values.min()), int(values.max())
    if low == high:
        raise ConfigError(f"normalization=min_max: the training images are constant (every pixel is {low})")
    return _same_for_all_channels(images, low / 255, (high - low) / 255)


def z_score(images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Normalization:
    """(x - mean) / std by channel, of the training split where not given.

    Raises:
        ConfigError: `mean` or `std` is not one number a channel, or a channel is constant.
    """
    num_channels = images.shape[1]
    if mean is not None:
        mean = _numbers("mean", mean, num_channels)
    if std is not None:
        std = _numbers("std", std, num_channels)
        if min(std) <= 0:
            raise ConfigError(f"normalization.std={std}: every number must be above 0")
    if mean is None or std is None:
        counts = pixel_counts(images).double()
        pixels = torch.arange(256, dtype=torch.float64, device=counts.device) / 255
        weights = counts / counts.sum(dim=1, keepdim=True)
        channel_mean = weights @ pixels
        variance = (weights * (pixels - channel_mean[:, None]).square()).sum(dim=1)
        if std is None and not variance.all():
            channel = int((variance == 0).nonzero()[0])
            raise ConfigError(
                f"normalization=z_score: channel {channel} of the training images is constant; give normalization.std"
            )
        mean = channel_mean.tolist() if mean is None else mean
        std = variance.sqrt().tolist() if std is None else std
    return Normalization(mean, std)


def pixel_counts(images: Tensor) -> Tensor:
    """(C, 256) int64: how often each value occurs in each channel of (N, C, H, W) uint8. Exact, whatever the size."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64, device=images.device)
    for chunk in images.split(CHUNK_IMAGES):
        for channel, count in enumerate(counts):
            count += torch.bincount(chunk[:, channel].flatten(), minlength=256)
    return counts


def _same_for_all_channels(images: Tensor, mean: float, std: float) -> Normalization:
    num_channels = images.shape[1]
    return Normalization([mean] * num_channels, [std] * num_channels)


def _numbers(key: str, values: Any, num_channels: int) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != num_channels or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"normalization.{key}={values}: must be a list of numbers, one a channel ({num_channels})")
    return numbers
