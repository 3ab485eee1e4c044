"""Augmentations one after the other, from the images in memory to those that a net is trained on."""

from collections.abc import Iterable

from torch import Tensor, nn


class Chain(nn.Module):
    """The parts in the order given; without any, images and labels stay as they are.

    A part with a method `set_position(epoch, positions)` is told before each batch which images it has.
    """

    def __init__(self, parts: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def set_position(self, epoch: int, positions: Tensor) -> None:
        """The epoch, from 0, and the places in the training set of the next batch's images, (B,) int64."""
        for part in self.parts:
            if hasattr(part, "set_position"):
                part.set_position(epoch, positions)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W), uint8 or float in [0, 1], and labels (B,) int64."""
        if len(self.parts) and not images.is_floating_point():
            images = images.float().div_(255)
        for part in self.parts:
            images, labels = part(images, labels)
        return images, labels
