"""Training on images that are changed, within a small distance, to be mistaken."""

import torch
from torch import Tensor

from lithydra.methods.base import Method, as_pixels, evaluating
from lithydra.metrics import predicted_classes


class Adversarial(Method):
    """The loss of adversarial images, no pixel further than epsilon from its own; evaluation adds the accuracy on such.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018, section 2.1 (PGD: several
    steps); Wong et al., "Fast is better than free", 2020, section 4 (FGSM: one step from a random start).

    Args:
        epsilon: Largest change of a pixel in [0, 1], above 0.
        steps: Of the attack, each along the sign of the gradient; 1: FGSM.
        step_size: Change of a pixel by a step; null: 1.25 · epsilon for one step, 2.5 · epsilon / steps for several.
        random_start: Start within epsilon of the image, not at it.
        trained: Train on adversarial images; else on the images as they are, and only measure the attack.
    """

    def __init__(
        self,
        epsilon: float = 0.1,
        steps: int = 1,
        step_size: float | None = None,
        random_start: bool = True,
        trained: bool = True,
    ) -> None:
        super().__init__()
        self.epsilon, self.steps, self.random_start, self.trained = epsilon, steps, random_start, trained
        self.step_size = step_size or (1.25 * epsilon if steps == 1 else 2.5 * epsilon / steps)

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = self.attacked(as_pixels(images), labels) if self.trained else images
        logits = self.net(self.normalize(images))
        return self.loss(logits, labels), logits

    def evaluation(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`robust_acc`: accuracy under the attack, whose random start is the same for each batch of a size."""
        with torch.inference_mode(False), torch.enable_grad():
            pixels, labels = as_pixels(images.clone()), labels.clone()
            generator = torch.Generator(images.device).manual_seed(0)
            attacked = self.attacked(pixels, labels, generator)
        logits = self.net(self.normalize(attacked))
        return {"robust_acc": (predicted_classes(logits) == labels).float().mean()}

    def attacked(self, images: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, C, H, W) in [0, 1], each moved to where the loss of its label is larger."""
        low, high = (images - self.epsilon).clamp(min=0), (images + self.epsilon).clamp(max=1)
        moved = images
        if self.random_start:
            noise = torch.empty_like(images).uniform_(-self.epsilon, self.epsilon, generator=generator)
            moved = torch.clamp(images + noise, low, high)
        with evaluating(self.net):
            for _ in range(self.steps):
                moved = moved.detach().requires_grad_()
                loss = self.loss(self.net(self.normalize(moved)), labels)
                # Of the sum, which has the mean's signs: a mean's gradient may be 0 in float16.
                (gradient,) = torch.autograd.grad(loss * len(images), moved)
                moved = torch.clamp(moved + self.step_size * gradient.sign(), low, high)
        return moved.detach()
