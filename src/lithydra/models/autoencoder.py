"""An autoencoder as a LightningModule: nothing in it knows of lithydra."""

from collections.abc import Callable, Iterable

import lightning as L
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer


class Autoencoder(L.LightningModule):
    """Learns to give an image back from a few numbers.

    Hinton & Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006.

    Args:
        in_shape: (C, H, W) of the images.
        optimizer: Of the parameters.
        hidden: Units of the layer before the code, and after it.
        code: Numbers that an image becomes.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        hidden: int = 128,
        code: int = 16,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])
        self.optimizer = optimizer
        channels, height, width = in_shape
        size = channels * height * width
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, code))
        self.decoder = nn.Sequential(
            nn.Linear(code, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.Unflatten(1, in_shape)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) float, as they come back."""
        return self.decoder(self.encoder(images))

    def _loss(self, batch: tuple[Tensor, Tensor], name: str) -> Tensor:
        images, _ = batch
        loss = F.mse_loss(self(images), images)
        self.log(name, loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._loss(batch, "train_loss")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss(batch, "val_loss")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._loss(batch, "test_loss")

    def configure_optimizers(self) -> Optimizer:
        return self.optimizer(self.parameters())
