"""Stock LightningModules and a stock LightningDataModule, as in Lightning's documentation, and how a run names them."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from conftest import QUIET

HERE = "stock"
SHORT = ("data.limit=300", "trainer.max_epochs=2", *QUIET)


class LitClassifier(L.LightningModule):
    """As in Lightning's documentation, for images of 8x8 pixels."""

    def __init__(self, hidden: int = 32, learning_rate: float = 0.02, dropout: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("test_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["learning_rate"])
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Plateau(LitClassifier):
    """With the schedule that Lightning steps after what an epoch's end saves."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class LitData(L.LightningDataModule):
    """As in Lightning's documentation: a shuffled DataLoader."""

    def __init__(self, batch_size: int = 16) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(240, 1, 8, 8, generator=generator)
        y = (x.flatten(1)[:, :10] * torch.arange(1.0, 11)).argmax(1)
        self.train, self.val = random_split(TensorDataset(x, y), [200, 40], generator=generator)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=20)

    def test_dataloader(self) -> Any:
        return DataLoader(self.val, batch_size=20)


OWN = (f"+module._target_={HERE}.LitClassifier", f"trust=[{HERE}]", "monitor.metric=val_acc")
MODULES = {
    "classifier": OWN,
    "autoencoder": ("module=autoencoder", "module.hidden=16", "module.code=4"),
    "gan": ("module=gan", "module.hidden=16"),
}
DATA = f"+data={{_target_: {HERE}.LitData}}"
