"""A generative adversarial net as a LightningModule with two optimizers: nothing in it knows of lithydra."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer


class GAN(L.LightningModule):
    """A generator of images, and a discriminator that learns to tell them from those of the data.

    Goodfellow et al., "Generative adversarial nets", 2014, with the generator's loss of section 3.

    Args:
        in_shape: (C, H, W) of the images.
        noise: Numbers that an image is made of.
        hidden: Units of the hidden layer of each net.
        lr: Of both.
    """

    def __init__(self, in_shape: tuple[int, int, int], noise: int = 32, hidden: int = 128, lr: float = 2e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.noise, self.lr = noise, lr
        size = in_shape[0] * in_shape[1] * in_shape[2]
        self.generator = nn.Sequential(
            nn.Linear(noise, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, size),
            nn.Sigmoid(),
            nn.Unflatten(1, in_shape),
        )
        self.discriminator = nn.Sequential(
            nn.Flatten(), nn.Linear(size, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] of noise (B, noise)."""
        return self.generator(noise)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        of_generator, of_discriminator = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
        fakes = self(torch.randn(len(images), self.noise, device=self.device))

        told = _verdict(self.discriminator(fakes), real=True)
        of_generator.zero_grad()
        self.manual_backward(told)
        of_generator.step()

        caught = (_verdict(self.discriminator(images), True) + _verdict(self.discriminator(fakes.detach()), False)) / 2
        of_discriminator.zero_grad()
        self.manual_backward(caught)
        of_discriminator.step()
        losses = {"train_generator_loss": told, "train_discriminator_loss": caught}
        self.log_dict(losses, on_step=False, on_epoch=True, batch_size=len(images))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """How sure the discriminator is, on images that it was not trained on; 0: not at all."""
        images, _ = batch
        margin = self.discriminator(images).mean()
        self.log("val_margin", margin, batch_size=len(images))

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        nets = (self.generator, self.discriminator)
        return [Adam(net.parameters(), lr=self.lr, betas=(0.5, 0.999)) for net in nets], []


def _verdict(logits: Tensor, real: bool) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
