"""Learning to tell images apart without labels, for a net that is then trained on few."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lithydra.methods.base import Method, evaluating
from lithydra.models.layers import head_name


class SimCLR(Method):
    """Two augmented views of an image should be alike, and unlike those of the other images of the batch.

    Chen et al., "A simple framework for contrastive learning of visual representations", 2020, equation 1. The features
    are what the net's head takes; the head itself is not trained. `init.from` this run, `init.head=replace`.

    Args:
        temperature: Above 0; the smaller, the more the most similar other images count.
        hidden: Units of the projection's hidden layer.
        dim: Of the projection, in which views are compared.
    """

    divisible = False  # the images of a batch are compared with each other
    classifies = False

    def __init__(self, temperature: float = 0.5, hidden: int = 256, dim: int = 64) -> None:
        super().__init__()
        self.temperature, self.hidden, self.dim = temperature, hidden, dim

    def setup(self) -> None:
        with torch.no_grad(), evaluating(self.net):
            size = self._features(torch.zeros(1, *self.image_shape, dtype=torch.uint8)).shape[1]
        self.projection = nn.Sequential(
            nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.dim, bias=False)
        )

    def views(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(2B, C, H, W): a view of each image, then another of each."""
        return torch.cat([self.augment(images, labels)[0] for _ in range(2)]), labels

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, None]:
        return self._contrast(images), None

    def evaluation(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`loss`: that of views of this batch, the same ones each time."""
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.manual_seed(0)
            self.augment.set_position(0, torch.arange(len(images), device=images.device))
            return {"loss": self._contrast(self.views(images, labels)[0])}

    def _contrast(self, views: Tensor) -> Tensor:
        projected = F.normalize(self.projection(self._features(views)).float(), dim=1)
        similarity = projected @ projected.T / self.temperature
        similarity.fill_diagonal_(-torch.inf)  # an image is not compared with itself
        partner = torch.arange(len(views), device=views.device).roll(len(views) // 2)
        return F.cross_entropy(similarity, partner)

    def _features(self, images: Tensor) -> Tensor:
        """(B, features): what the net gives its head."""
        found: list[Tensor] = []
        head = self.net.get_submodule(head_name(self.net))
        hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            self.net(self.normalize(images))
        finally:
            hook.remove()
        return found[-1].flatten(1)
