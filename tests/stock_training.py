"""Stock Lightning after the run that settings describe, for what must come out alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor

from conftest import SMALL, Compose, assert_equal, weights
from lithydra.data.base import ImageDataModule
from lithydra.run.directory import RunDir
from lithydra.training import build
from lithydra.training.engine import GradientClassifier

LIGHTNING = "lightning.pytorch.callbacks"
SETTINGS = (*SMALL, "optimizer=sgd", "lr=0.1")  # 17 batches an epoch, the last of 14 images


class Batches:
    """The training batches that a run sees, as a plain loader."""

    def __init__(self, data: ImageDataModule) -> None:
        self.loader = data.train_dataloader()
        self.sampler = self.loader.sampler

    def __len__(self) -> int:
        return self.sampler.num_batches

    def __iter__(self) -> Iterator[list[Tensor]]:
        for chunk in self.loader:
            yield from ([batch.images, batch.labels] for batch in chunk.batches())


class Stock(L.LightningModule):
    """What a run trains, by Lightning's automatic optimization."""

    def __init__(self, module: GradientClassifier, data: ImageDataModule) -> None:
        super().__init__()
        self.net, self.normalization, self.loss = module.net, module.normalization, module.loss
        self.make = lambda: module.make_optimizer_and_scheduler(data.num_training_batches)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self.make()
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.loss(self.net(self.normalization(batch[0])), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.net(self.normalization(batch[0]))


def stock(
    compose: Compose, tmp_path: Path, *settings: str, callback: L.Callback, logger: Logger | None = None, **flags: Any
) -> Stock:
    """Stock Lightning after the run that `settings` describe."""
    config = compose(*settings)
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    built = build.classifier(config, data)
    assert isinstance(built, GradientClassifier)
    module = Stock(built, data)
    trainer = L.Trainer(
        max_epochs=config.trainer.max_epochs,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        gradient_clip_val=config.trainer.gradient_clip_val,
        log_every_n_steps=config.trainer.log_every_n_steps,
        num_sanity_val_steps=0,
        accelerator="cpu",
        callbacks=[callback],
        logger=logger or False,
        default_root_dir=tmp_path / "stock",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": isinstance(callback, ModelCheckpoint), **flags},
    )
    trainer.fit(module, Batches(data), data.val_dataloader())
    return module


def assert_same_weights(run: RunDir, module: Stock) -> None:
    state = weights(run)
    assert_equal({key: value for key, value in state.items() if key in module.state_dict()}, dict(module.state_dict()))
