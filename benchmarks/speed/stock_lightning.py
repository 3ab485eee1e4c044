"""Stock Lightning as its documentation writes it: automatic optimization, and `self.log` at each step."""

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from .clock import EpochClock
from .task import Task, read_task
from .workloads import EVAL_BATCH_SIZE, LEARNING_RATE


class StockClassifier(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.train_acc = MulticlassAccuracy(10, average="micro")
        self.val_acc = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = cross_entropy(logits, labels)
        self.train_acc(logits, labels)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.val_acc(logits, labels)
        self.log("val/loss", cross_entropy(logits, labels), prog_bar=True)
        self.log("val/acc", self.val_acc, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)


def main(task: Task) -> None:
    def loader(rows: np.ndarray, batch_size: int, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
        images = torch.from_numpy(task.x_train[rows])
        images = images.reshape(*images.shape[:3], -1).permute(0, 3, 1, 2).contiguous().float().div_(255)
        dataset = TensorDataset(images, torch.from_numpy(task.y_train[rows]))
        return DataLoader(dataset, batch_size, shuffle=shuffle, pin_memory=task.device.type == "cuda")

    clock = EpochClock()
    trainer = L.Trainer(
        max_epochs=task.epochs,
        accelerator="gpu" if task.device.type == "cuda" else "cpu",
        devices=1,
        logger=TensorBoardLogger("logs"),
        callbacks=[ModelCheckpoint("checkpoints", monitor="val/acc", mode="max", save_last=True), clock],
    )
    train_loader = loader(task.train_indices, task.workload.batch_size, shuffle=True)
    val_loader = loader(task.val_indices, EVAL_BATCH_SIZE, shuffle=False)
    trainer.fit(StockClassifier(task.net()), train_loader, val_loader)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    clock.write(num_train=len(task.train_indices), train_loss=metrics["train/loss_epoch"], val_acc=metrics["val/acc"])


if __name__ == "__main__":
    main(read_task())
