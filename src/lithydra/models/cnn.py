"""A plain convolutional network: convolutions that each halve the image, and one linear layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lithydra.models import layers


class CNN(nn.Module):
    """Per channel count: convolution, [batch norm], activation, 2x2 max-pool; then [dropout] and one linear layer.

    Args:
        in_shape: (C, H, W) of one image.
        num_classes: number of logits.
        channels: output channels of each convolution.
        kernel_size: side of every kernel in pixels, odd.
        activation: a name from `layers.ACTIVATIONS`.
        batch_norm: whether each convolution is normalized before its activation.
        batch_norm_eps: added to the variance.
        batch_norm_momentum: weight of the newest batch in the running mean and variance, in [0, 1].
        dropout: probability that an input of the linear layer is dropped, in [0, 1).

    Raises:
        ConfigError: the image is too small for so many pools.
    """

    channels_last = True

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        channels: Sequence[int] = (32, 64, 128),
        kernel_size: int = 3,
        activation: str = "relu",
        batch_norm: bool = False,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        scale = 2 ** len(channels)
        layers.check_image_side(f"model.channels={list(channels)}", in_shape, scale)
        in_channels, height, width = in_shape
        counts = [in_channels, *channels]
        self.features = nn.Sequential()
        for num_inputs, num_outputs in pairwise(counts):
            function, pieces = layers.activation(activation)
            block = nn.Sequential(nn.Conv2d(num_inputs, num_outputs * pieces, kernel_size, padding=kernel_size // 2))
            if batch_norm:
                block.append(nn.BatchNorm2d(num_outputs * pieces, batch_norm_eps, batch_norm_momentum))
            self.features.append(block.append(function).append(nn.MaxPool2d(2)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(counts[-1] * (height // scale) * (width // scale), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        return self.head(self.dropout(self.features(x).flatten(1)))
