"""The data module that every data set shares."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor

from lithydra.data.arrays import Arrays
from lithydra.data.images import ImageFiles
from lithydra.data.loaders import Chunk, EvaluationLoader, TrainingBatch, TrainingLoader, TrainingOrder
from lithydra.data.prepare import note_code
from lithydra.data.splits import Batch, Division, Layout, Split, in_files, in_memory, moved
from lithydra.errors import ConfigError


class ImageDataModule(L.LightningDataModule):
    """Images in memory as uint8, handed out by index; the official test split stays the test split, and so does the
    validation split of data that have one.

    A data set is a subclass that implements `read` and `class_names`. After `load()` it offers `train`, `val` (None
    without validation) and `test`, and tells the model `image_shape` and `num_classes`.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        note_code(cls.__module__)

    def __init__(
        self,
        *,
        name: str,
        seed: int,
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        num_folds: int | None = None,
        fold: int = 0,
        limit: int | float | None = None,
        classes: list[int] | None = None,
        image_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.name, self.seed = name, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.image_size, self.num_workers = image_size, num_workers
        self.division = Division(name, seed, val_fraction, num_folds, fold, limit, classes)
        self.layout = Layout()
        self.as_floats: Callable[[TrainingBatch | Batch], Batch] | None = None
        self.limit_train_batches: int | float | None = None
        self.steps_per_execution = 1  # build sets it once a step has been timed, before the first loader is asked for
        self.train: Split | None = None
        self.val: Split | None = None
        self.test: Split | None = None

    def read(self) -> Arrays:
        """The official training and test splits, as uint8 arrays. Those that `prepared` or a parent gives are not
        changed in place: a sweep's jobs share them."""
        raise NotImplementedError

    def class_names(self) -> tuple[str, ...]:
        """The names of all classes, before `classes` selects some."""
        raise NotImplementedError

    def files(self) -> dict[str, ImageFiles] | None:
        """The images of each split, train, test and maybe val, as files to decode on demand: too many for memory."""
        return None

    def fingerprint(self) -> dict[str, str]:
        """Checksums of the arrays that were read, for the run's provenance."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, by label."""
        names = self.class_names()
        return tuple(names[i] for i in self.division.classes) if self.division.classes else names

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class, by label."""
        assert self.train is not None
        return self.train.own_labels.bincount(minlength=self.num_classes).tolist()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        assert self.train is not None
        return self.train.image_shape

    def load(self, layout: Layout | None = None, limit_train_batches: int | float | None = None) -> None:
        """Read the data and divide them; the second call does nothing.

        Args:
            layout: What the net wants; None: contiguous.
            limit_train_batches: Batches an epoch, or a part of them; None: all.
        """
        if self.train is not None:
            return
        self.layout, self.limit_train_batches = layout or Layout(), limit_train_batches
        if (files := self.files()) is None:
            splits = in_memory(self.read(), self.image_size, self.layout)
        else:
            splits = in_files(files, self.num_workers, max(self.batch_size, self.eval_batch_size))
        self.train, self.val, self.test = self.division.of(splits, len(self.class_names()))
        if len(self.train) < self.batch_size:
            raise ConfigError(
                f"data.batch_size={self.batch_size}: larger than the {len(self.train)} training images of {self.name}"
            )

    def facts(self) -> dict[str, Any]:
        """What a checkpoint and a reader of the run need to know of the data, as plain values."""
        assert self.train is not None and self.test is not None
        return {
            "name": self.name,
            "class_names": list(self.names),
            "image_shape": list(self.image_shape),
            "mean_pixel": self._mean_pixel(),
            "num_train": len(self.train),
            "num_val": len(self.val) if self.val is not None else 0,
            "num_test": len(self.test),
        }

    def _mean_pixel(self) -> float:
        """Mean brightness of about 1,000 training images, in [0, 1]."""
        images = self.pixels()
        return float(images[:: max(1, len(images) // 1000)].float().mean()) / 255

    def pixels(self) -> Tensor:
        """Training images as (M, C, H, W) uint8, for the statistics that normalization needs."""
        assert self.train is not None
        return self.train.pixels(self.seed)

    @property
    def num_training_batches(self) -> int:
        """Batches an epoch: as many as `limit_train_batches` leaves."""
        assert self.train is not None
        limit, count = self.limit_train_batches, -(-len(self.train) // self.batch_size)
        if limit is None:
            return count
        return int(limit * count) if isinstance(limit, float) else min(limit, count)

    # Lightning's side.

    def setup(self, stage: str) -> None:
        self.load()
        if self.trainer:
            strategy = self.trainer.strategy
            self.train, self.val, self.test = moved((self.train, self.val, self.test), strategy.root_device)
            self.steps_per_execution = strategy.broadcast(self.steps_per_execution)  # each process has measured

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """With `as_floats`, batches are (images, labels) as it makes them: for a LightningModule that expects such."""
        if self.as_floats is None:
            return batch
        floats = self.as_floats(next(batch.batches()) if isinstance(batch, Chunk) else batch)
        return self.trainer.precision_plugin.convert_input(floats) if self.trainer else floats

    def _share(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}

    def train_dataloader(self) -> TrainingLoader:
        assert self.train is not None
        module = self.trainer.lightning_module if self.trainer else None
        how = {"num_batches": self.num_training_batches, "accumulated": getattr(module, "accumulate_grad_batches", 1)}
        order = TrainingOrder(len(self.train), self.batch_size, self.seed, **how, **self._share())
        return TrainingLoader(self.train, order, self.steps_per_execution)

    def val_dataloader(self) -> EvaluationLoader | list[Any]:
        if self.val is None:
            return []
        return EvaluationLoader(self.val, self.eval_batch_size, **self._share())

    def test_dataloader(self) -> EvaluationLoader:
        assert self.test is not None
        return EvaluationLoader(self.test, self.eval_batch_size, **self._share())
