"""A convolutional network that reaches 94 % on CIFAR-10 in few epochs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lithydra.errors import ConfigError
from lithydra.models import layers


class Airbench(nn.Module):
    """The network of "94% on CIFAR-10 in 3.29 seconds on a single GPU" (Jordan, 2024), sections 3.1 to 3.3 and 4.

    Its first layer, 2x2 convolutions that make the colors of neighbors uncorrelated, is not trained: `fit_to` makes it
    from images. Each 3x3 convolution starts as the identity of its first channels.

    Args:
        in_shape: (C, H, W) of one image; sides of at least 9 pixels.
        num_classes: number of logits.
        widths: channels of the three groups of two convolutions.
        batch_norm_momentum: weight of the newest batch in the running mean and variance, in [0, 1].

    Raises:
        ConfigError: The image is too small, or there are not three widths.
    """

    channels_last = True
    whitening: Tensor  # (8 C, C, 2, 2)

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        widths: Sequence[int] = (64, 256, 256),
        batch_norm_momentum: float = 0.4,
    ) -> None:
        super().__init__()
        layers.check_image_side("model=airbench", in_shape, 9)
        if len(widths) != 3:
            raise ConfigError(f"model.widths={list(widths)}: must be three, of the groups of convolutions")
        channels = in_shape[0]
        self.register_buffer("whitening", nn.init.dirac_(torch.empty(8 * channels, channels, 2, 2)))
        self.whitening_bias = nn.Parameter(torch.zeros(8 * channels))
        blocks: list[nn.Module] = []
        for num_inputs, width in zip((8 * channels, *widths), widths, strict=False):
            blocks += [_conv(num_inputs, width), nn.MaxPool2d(2), _Norm(width, batch_norm_momentum), nn.GELU()]
            blocks += [_conv(width, width), _Norm(width, batch_norm_momentum), nn.GELU()]
        self.features = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight /= self.head.weight.std()

    def fit_to(self, images: Tensor) -> None:
        """Take the first layer from normalized images (N, C, H, W), float: from the eigenvectors of their 2x2 patches.

        Each is scaled by the root of its eigenvalue, and is there with both signs.
        """
        patches = F.unfold(images.contiguous().float(), 2).transpose(1, 2).flatten(0, 1)  # (N · positions, 4 C)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (values + 5e-4).sqrt()).T.view(-1, *self.whitening.shape[1:])
        self.whitening.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        x = self.features(F.gelu(F.conv2d(x, self.whitening, self.whitening_bias)))
        # amax is a max-pool to 1x1 whose gradient is deterministic on CUDA; AdaptiveMaxPool2d's is not.
        return self.head(x.amax((2, 3))) / self.head.in_features


def _conv(num_inputs: int, num_outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:num_inputs])
    return conv


class _Norm(nn.BatchNorm2d):
    """BatchNorm that shifts and does not scale: the next convolution does."""

    weight: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__(channels, eps=1e-12, momentum=momentum, affine=False)
        del self.weight, self.bias
        self.register_buffer("weight", torch.ones(channels), persistent=False)  # cuDNN's kernel takes both or none
        self.bias = nn.Parameter(torch.zeros(channels))
