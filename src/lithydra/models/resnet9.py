"""A compact residual network for images of about 32x32."""

from torch import Tensor, nn

from lithydra.models import layers


class Residual(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class ResNet9(nn.Module):
    """The network of Page's DAWNBench entry (Page, 2018, "How to Train Your ResNet", part 3).

    Args:
        in_shape: (C, H, W) of one image; sides of at least 8 pixels.
        num_classes: number of logits.
        width: channels of the first convolution; the last ones have eight times as many.
        batch_norm_eps: added to the variance.
        batch_norm_momentum: weight of the newest batch in the running mean and variance, in [0, 1].

    Raises:
        ConfigError: the image is too small.
    """

    channels_last = True
    logit_scale = 0.125  # keeps the softmax soft at the start, when the maximum over the image is large

    def __init__(
        self,
        *,
        in_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 64,
        batch_norm_eps: float = 1e-5,
        batch_norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        layers.check_image_side("model=resnet9", in_shape, 8)

        def conv(num_inputs: int, num_outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(num_outputs, batch_norm_eps, batch_norm_momentum),
                nn.ReLU(inplace=True),
            )

        self.features = nn.Sequential(
            conv(in_shape[0], width),
            conv(width, 2 * width),
            nn.MaxPool2d(2),
            Residual(conv(2 * width, 2 * width), conv(2 * width, 2 * width)),
            conv(2 * width, 4 * width),
            nn.MaxPool2d(2),
            conv(4 * width, 8 * width),
            nn.MaxPool2d(2),
            Residual(conv(8 * width, 8 * width), conv(8 * width, 8 * width)),
        )
        self.head = nn.Linear(8 * width, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) float to logits (B, num_classes)."""
        # amax is a max-pool to 1x1 whose gradient is deterministic on CUDA; AdaptiveMaxPool2d's is not.
        return self.logit_scale * self.head(self.features(x).amax((2, 3)))
