"""Learning from labels."""

from torch import Tensor

from lithydra.methods.base import Method


class Supervised(Method):
    """The loss of the logits and the labels."""

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(self.normalize(images))
        return self.loss(logits, labels), logits
