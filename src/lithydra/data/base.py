"""The data module that every data set shares: splits, selections and loaders over uint8 images."""

import logging
import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lithydra.data.arrays import Arrays
from lithydra.data.images import ImageFiles, resize_all
from lithydra.data.loaders import EvaluationLoader, FileSplit, Split, TensorSplit, TrainingLoader, TrainingOrder
from lithydra.data.memory import require_memory
from lithydra.data.prepare import note_code
from lithydra.data.shared import key_of, once
from lithydra.errors import ConfigError

log = logging.getLogger(__name__)


class ImageDataModule(L.LightningDataModule):
    """Images in memory as uint8, handed out by index; the official test split stays the test split, and so does the
    validation split of data that have one.

    A data set is a subclass that implements `read` and `class_names`. After `load()` it offers `train`, `val` (None
    without validation) and `test`, and tells the model `image_shape` (C, H, W) and `num_classes`.
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
        self.val_fraction, self.num_folds, self.fold = val_fraction, num_folds, fold
        self.limit, self.selected, self.image_size, self.num_workers = limit, classes, image_size, num_workers
        self.channels_last = False  # build sets it to what the net wants, before load()
        self.limit_train_batches: int | float | None = None  # batches an epoch, or a part of them; build sets it
        self.steps_per_execution = 1  # build sets it, before the first loader is asked for
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
        return tuple(names[i] for i in self.selected) if self.selected else names

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def load(self) -> None:
        """Read the data and divide them; the second call does nothing."""
        if self.train is not None:
            return
        files = self.files()
        splits = self._held(self.read()) if files is None else self._on_demand(files)
        chosen = {name: self._select_classes(split) for name, split in splits.items()}
        self.test = chosen["test"]
        train = self._limited(chosen["train"])
        self.train, self.val = self._with_own(train, chosen["val"]) if "val" in chosen else self._divided(train)
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

    @property
    def num_training_batches(self) -> int:
        """Batches an epoch: as many as `limit_train_batches` leaves."""
        assert self.train is not None
        limit, count = self.limit_train_batches, -(-len(self.train) // self.batch_size)
        if limit is None:
            return count
        return int(limit * count) if isinstance(limit, float) else min(limit, count)

    def pixels(self) -> Tensor:
        """Training images as (M, C, H, W) uint8, for the statistics that normalization needs.

        Of a set that is not in memory, the first 1,000 of a seeded permutation.
        """
        assert self.train is not None
        if isinstance(self.train, FileSplit):
            rows = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed))[:1000]
            return next(self.train.batches([rows]))[0]
        split = self.train
        whole = len(split) == len(split.storage)
        images = split.storage if whole else split.storage.index_select(0, split.indices)
        return images.permute(0, 3, 1, 2) if split.channels_last else images

    def _on_demand(self, files: dict[str, ImageFiles]) -> dict[str, Split]:
        channels, size = files["train"].channels, files["train"].image_size
        self.image_shape = (channels, size, size)
        self._require_memory(max(self.batch_size, self.eval_batch_size), size, channels)
        return {
            name: FileSplit(part, part.labels, torch.arange(len(part)), self.num_workers)
            for name, part in files.items()
        }

    def _held(self, arrays: Arrays) -> dict[str, Split]:
        """The arrays as tensors. What a sweep's jobs share of them is made into tensors once for all, too."""
        key, splits = key_of(arrays), dict[str, Split]()
        for name, (images, labels) in arrays.splits().items():
            images = images if images.ndim == 4 else images[..., None]
            make = partial(self._storage, _as_tensor(images))
            storage = make() if key is None else once((key, name, self.image_size, self.channels_last), make)
            indices = torch.arange(len(labels))
            splits[name] = TensorSplit(storage, _as_tensor(labels), indices, self.channels_last)
            first, second, third = storage.shape[1:]
            self.image_shape = (third, first, second) if self.channels_last else (first, second, third)
        return splits

    def _storage(self, images: Tensor) -> Tensor:
        """(N, H, W, C) at the size and in the layout that training wants."""
        if self.image_size and tuple(images.shape[1:3]) != (self.image_size, self.image_size):
            self._require_memory(len(images), self.image_size, images.shape[3])
            images = torch.from_numpy(resize_all(images.numpy(), self.image_size))
        return images if self.channels_last else images.permute(0, 3, 1, 2).contiguous()

    def _require_memory(self, num_images: int, side: int, channels: int) -> None:
        what = f"data.image_size={side}: {num_images:,} images of {channels}x{side}x{side} at a time"
        require_memory(num_images * channels * side**2, what)

    def _select_classes(self, split: Split) -> Split:
        """Keep the images of `classes` and relabel them 0, 1, … in the order given."""
        if self.selected is None:
            return split
        num_all = len(self.class_names())
        unknown = [c for c in self.selected if not 0 <= c < num_all]
        if unknown:
            raise ConfigError(f"data.classes={self.selected}: {self.name} has classes 0 to {num_all - 1}")
        new_label = torch.full((num_all,), -1)
        new_label[self.selected] = torch.arange(len(self.selected))
        labels = new_label[split.labels]
        return replace(split, labels=labels, indices=(labels >= 0).nonzero().squeeze(1))

    def _limited(self, split: Split) -> Split:
        """A stratified part of the training split: `limit` images, or that fraction of them."""
        if self.limit is None:
            return split
        count = round(self.limit * len(split)) if isinstance(self.limit, float) else self.limit
        if count > len(split):
            raise ConfigError(f"data.limit={self.limit}: {self.name} has {len(split)} training images")
        return split if count == len(split) else self._parts(split, "limit", self.limit, count)[0]

    def _with_own(self, train: Split, val: Split) -> tuple[Split, Split | None]:
        """With the validation split that the data have."""
        own = f"{self.name} has a validation split of its own, {len(val):,} images"
        if self.num_folds:
            raise ConfigError(f"data.num_folds={self.num_folds}: {own}; cross-validation needs data without one")
        if self.val_fraction == 0:
            log.info("%s, and data.val_fraction=0 leaves them out: there is no validation", own)
            return train, None
        log.info("%s; data.val_fraction=%s does not apply", own, self.val_fraction)
        return train, val

    def _divided(self, split: Split) -> tuple[Split, Split | None]:
        """Training and validation part, stratified by class; seeded by `seed`."""
        if self.num_folds:
            from sklearn.model_selection import StratifiedKFold

            folds = StratifiedKFold(self.num_folds, shuffle=True, random_state=self.seed)
            try:
                train, val = list(folds.split(split.indices, split.labels[split.indices]))[self.fold]
            except ValueError as error:
                raise ConfigError(f"data.num_folds={self.num_folds}: {error}") from error
            return self._at(split, train), self._at(split, val)
        if self.val_fraction == 0:
            return split, None
        num_val = round(self.val_fraction * len(split))
        return self._parts(split, "val_fraction", self.val_fraction, len(split) - num_val)

    def _parts(self, split: Split, key: str, value: float, train_size: int) -> tuple[Split, Split]:
        from sklearn.model_selection import train_test_split

        labels = split.labels[split.indices]
        try:
            first, second = train_test_split(
                np.arange(len(split)), train_size=train_size, stratify=labels, random_state=self.seed
            )
        except ValueError as error:
            raise ConfigError(f"data.{key}={value}: {len(split)} images do not divide so: {error}") from error
        return self._at(split, np.asarray(first)), self._at(split, np.asarray(second))

    def _at(self, split: Split, positions: np.ndarray) -> Split:
        return replace(split, indices=split.indices[torch.from_numpy(np.sort(positions))])

    # Lightning's side.

    def setup(self, stage: str) -> None:
        self.load()
        if self.trainer:
            self._move_to(self.trainer.strategy.root_device)
            self.steps_per_execution = self.trainer.strategy.broadcast(self.steps_per_execution)  # each has measured

    def _move_to(self, device: torch.device) -> None:
        """Put the images on the device that trains. Splits share tensors, so each tensor is moved once."""
        moved: dict[int, Tensor] = {}

        def once_moved(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = tensor.to(device)
            return moved[id(tensor)]

        def move(split: Split | None) -> Split | None:
            if not isinstance(split, TensorSplit):
                return split
            tensors = {key: getattr(split, key) for key in ("storage", "labels", "indices")}
            return replace(split, **{key: once_moved(tensor) for key, tensor in tensors.items()})

        self.train, self.val, self.test = move(self.train), move(self.val), move(self.test)

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


def _as_tensor(array: np.ndarray) -> Tensor:
    """Without a copy. Arrays that jobs share are read-only, which torch warns of: nothing here writes to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)
