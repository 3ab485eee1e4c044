"""AlexNet, once for small images and once as it was for ImageNet."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lithydra.models import layers

POOL_AFTER = (1, 2, 5)  # which of the five convolutions, counted from 1, a max-pool follows


class AlexNet(nn.Module):
    """AlexNet for small images: 3x3 kernels without stride, and 2x2 max-pools after convolutions 1, 2 and 5.

    Args:
        in_shape: (C, H, W) of one image; sides of at least 8 pixels.
        num_classes: number of logits.
        channels: output channels of the five convolutions.
        hidden: width of each fully connected layer before the last one.
        activation: a name from `layers.ACTIVATIONS`.
        dropout: probability that an input of a hidden fully connected layer is dropped, in [0, 1).

    Raises:
        ConfigError: the image is too small.
    """

    channels_last = True

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        channels: Sequence[int] = (64, 192, 384, 256, 256),
        hidden: Sequence[int] = (1024, 1024),
        activation: str = "relu",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers.check_image_side("model=alexnet", in_shape, 8)
        in_channels, height, width = in_shape
        self.features = nn.Sequential()
        for number, (num_inputs, num_outputs) in enumerate(pairwise([in_channels, *channels]), start=1):
            function, pieces = layers.activation(activation)
            self.features.append(nn.Conv2d(num_inputs, num_outputs * pieces, kernel_size=3, padding=1))
            self.features.append(function)
            if number in POOL_AFTER:
                self.features.append(nn.MaxPool2d(2))
        widths = [channels[-1] * (height // 8) * (width // 8), *hidden]
        self.hidden = nn.Sequential()
        for num_inputs, num_outputs in pairwise(widths):
            function, pieces = layers.activation(activation)
            self.hidden.extend([nn.Dropout(dropout), nn.Linear(num_inputs, num_outputs * pieces), function])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        return self.head(self.hidden(self.features(x).flatten(1)))


class AlexNetImageNet(nn.Module):
    """AlexNet for images of 224x224 (Krizhevsky, 2014, "One weird trick for parallelizing CNNs").

    With `kernel_sizes` 11, 5, 3, 3, 3 it has the layers, and the names, of torchvision's `alexnet`.

    Args:
        in_shape: (C, H, W) of one image; sides of at least 52 pixels plus the first kernel's side.
        num_classes: number of logits.
        kernel_sizes: sides of the five convolutions' kernels in pixels, odd.
        dropout: probability that an input of a hidden fully connected layer is dropped, in [0, 1).

    Raises:
        ConfigError: the image is too small.
    """

    channels_last = True

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        kernel_sizes: Sequence[int] = (11, 5, 3, 5, 5),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        # Three 3x3 pools of stride 2 need 15 pixels after the first convolution (padding 2, stride 4).
        layers.check_image_side("model=alexnet_imagenet", in_shape, 14 * 4 + kernel_sizes[0] - 2 * 2)
        channels = [in_shape[0], 64, 192, 384, 256, 256]
        self.features = nn.Sequential()
        for number, kernel_size in enumerate(kernel_sizes, start=1):
            stride, padding = (4, 2) if number == 1 else (1, kernel_size // 2)
            self.features.append(nn.Conv2d(channels[number - 1], channels[number], kernel_size, stride, padding))
            self.features.append(nn.ReLU(inplace=True))
            if number in POOL_AFTER:
                self.features.append(nn.MaxPool2d(kernel_size=3, stride=2))
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def torchvision_weights(self, setting: str) -> dict[str, Tensor]:
        """torchvision's weights, which fit its kernels alone; `setting` is what a refusal names."""
        from lithydra.models.torchvision_net import read_weights  # torchvision takes long to import

        return read_weights("alexnet", "DEFAULT", setting)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
