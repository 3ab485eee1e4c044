"""The splits of a data set: images in memory or in files, and which of them are trained, validated and tested on."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from lithydra.data.arrays import Arrays
from lithydra.data.images import ImageFiles, resize_all
from lithydra.data.memory import require_memory
from lithydra.data.shared import key_of, once
from lithydra.errors import ConfigError

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) uint8, labels (B,) int64


@dataclass(frozen=True)
class Layout:
    """The memory format of images and weights: torch's channels_last, or contiguous."""

    channels_last: bool = False

    def stored(self, images: Tensor) -> Tensor:
        """Images (N, H, W, C) in the order in which they are held: this one, or (N, C, H, W)."""
        return images if self.channels_last else images.permute(0, 3, 1, 2).contiguous()

    def viewed(self, stored: Tensor) -> Tensor:
        """Held images as (N, C, H, W), without a copy."""
        return stored.permute(0, 3, 1, 2) if self.channels_last else stored

    def of_net(self, net: nn.Module) -> nn.Module:
        return net.to(memory_format=torch.channels_last) if self.channels_last else net  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        labels: (N,) int64, of all images that the split chooses from.
        indices: (M,) int64, those that it has.
    """

    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def own_labels(self) -> Tensor:
        """(M,) int64, in the split's order."""
        return self.labels[self.indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        raise NotImplementedError

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Batch]:
        """The images and labels at these positions of the split, each batch made when it is asked for."""
        raise NotImplementedError

    def pixels(self, seed: int) -> Tensor:
        """Images (K, C, H, W) uint8 for statistics: all in memory, or the first 1,000 of a seeded permutation."""
        raise NotImplementedError

    def at(self, positions: np.ndarray) -> "Split":
        """The part at these positions, in the split's order."""
        return replace(self, indices=self.indices[torch.from_numpy(np.sort(positions))])


@dataclass(frozen=True)
class TensorSplit(Split):
    """The images of `storage` at `indices`, without a copy of their own.

    Attributes:
        storage: (N, C, H, W) or (N, H, W, C) uint8, contiguous, as `layout` has them.
    """

    storage: Tensor
    layout: Layout = Layout()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.layout.viewed(self.storage).shape
        return channels, height, width

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Batch]:
        if not positions:
            return
        all_rows = self.indices[torch.cat([*positions])]  # once, not in each step
        for rows in all_rows.split([len(p) for p in positions]):
            yield self.layout.viewed(self.storage.index_select(0, rows)), self.labels.index_select(0, rows)

    def pixels(self, seed: int) -> Tensor:
        whole = len(self) == len(self.storage)
        return self.layout.viewed(self.storage if whole else self.storage.index_select(0, self.indices))


@dataclass(frozen=True)
class FileSplit(Split):
    """Images that are too many for memory: worker processes decode them as they are needed."""

    dataset: ImageFiles
    num_workers: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.dataset.channels, self.dataset.image_size, self.dataset.image_size

    def batches(self, positions: Sequence[Tensor]) -> Iterator[Batch]:
        subset = Subset(self.dataset, self.indices.tolist())
        sampler = [rows.tolist() for rows in positions]
        # A generator of its own: DataLoader would draw the workers' seed from the one that dropout draws from.
        generator = torch.Generator()
        loader = DataLoader(subset, batch_sampler=sampler, num_workers=self.num_workers, generator=generator)
        for (images, _), rows in zip(loader, positions, strict=True):
            yield images, self.labels[self.indices[rows]]  # the data set does not know of relabelled classes

    def pixels(self, seed: int) -> Tensor:
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:1000]
        return next(self.batches([rows]))[0]


def in_memory(arrays: Arrays, image_size: int | None, layout: Layout) -> dict[str, Split]:
    """The arrays as tensors. What a sweep's jobs share of them is made into tensors once for all, too."""
    key, splits = key_of(arrays), dict[str, Split]()
    for name, (images, labels) in arrays.splits().items():
        make = partial(_storage, _as_tensor(images if images.ndim == 4 else images[..., None]), image_size, layout)
        storage = make() if key is None else once((key, name, image_size, layout), make)
        splits[name] = TensorSplit(_as_tensor(labels), torch.arange(len(labels)), storage, layout)
    return splits


def in_files(files: dict[str, ImageFiles], num_workers: int, batch_size: int) -> dict[str, Split]:
    """Files that are decoded `batch_size` at a time."""
    _require_memory(batch_size, files["train"].image_size, files["train"].channels)
    return {name: FileSplit(part.labels, torch.arange(len(part)), part, num_workers) for name, part in files.items()}


def _storage(images: Tensor, image_size: int | None, layout: Layout) -> Tensor:
    """Images (N, H, W, C) at the size and in the layout that training wants."""
    if image_size and tuple(images.shape[1:3]) != (image_size, image_size):
        _require_memory(len(images), image_size, images.shape[3])
        images = torch.from_numpy(resize_all(images.numpy(), image_size))
    return layout.stored(images)


def _require_memory(num_images: int, side: int, channels: int) -> None:
    what = f"data.image_size={side}: {num_images:,} images of {channels}x{side}x{side} at a time"
    require_memory(num_images * channels * side**2, what)


def _as_tensor(array: np.ndarray) -> Tensor:
    """Without a copy. Arrays that jobs share are read-only, which torch warns of: nothing here writes to them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def moved(splits: Iterable[Split | None], device: torch.device) -> list[Split | None]:
    """The splits with their images on the device. They share tensors, so each tensor is moved once."""
    done: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in done:
            done[id(tensor)] = tensor.to(device)
        return done[id(tensor)]

    return [
        replace(split, labels=move(split.labels), indices=move(split.indices), storage=move(split.storage))
        if isinstance(split, TensorSplit)
        else split
        for split in splits
    ]


@dataclass(frozen=True)
class Division:
    """Which images of a data set are trained, validated and tested on, by the settings of conf/data/_base.yaml."""

    name: str
    seed: int
    val_fraction: float
    num_folds: int | None = None
    fold: int = 0
    limit: int | float | None = None
    classes: Sequence[int] | None = None

    def of(self, splits: dict[str, Split], num_classes: int) -> tuple[Split, Split | None, Split]:
        """Train, validation (None without it) and test, of the official splits with `num_classes` classes in all."""
        chosen = {name: self._select_classes(split, num_classes) for name, split in splits.items()}
        train = self._limited(chosen["train"])
        train, val = self._with_own(train, chosen["val"]) if "val" in chosen else self._divided(train)
        return train, val, chosen["test"]

    def _select_classes(self, split: Split, num_classes: int) -> Split:
        """Keep the images of `classes` and relabel them 0, 1, … in the order given."""
        if self.classes is None:
            return split
        if any(not 0 <= c < num_classes for c in self.classes):
            raise ConfigError(f"data.classes={self.classes}: {self.name} has classes 0 to {num_classes - 1}")
        new_label = torch.full((num_classes,), -1)
        new_label[self.classes] = torch.arange(len(self.classes))
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
            return self._folded(split, self.num_folds)
        if self.val_fraction == 0:
            return split, None
        num_val = round(self.val_fraction * len(split))
        return self._parts(split, "val_fraction", self.val_fraction, len(split) - num_val)

    def _folded(self, split: Split, num_folds: int) -> tuple[Split, Split]:
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(num_folds, shuffle=True, random_state=self.seed)
        try:
            train, val = list(folds.split(split.indices, split.own_labels))[self.fold]
        except ValueError as error:
            raise ConfigError(f"data.num_folds={num_folds}: {error}") from error
        return split.at(train), split.at(val)

    def _parts(self, split: Split, key: str, value: float, train_size: int) -> tuple[Split, Split]:
        from sklearn.model_selection import train_test_split

        try:
            first, second = train_test_split(
                np.arange(len(split)), train_size=train_size, stratify=split.own_labels, random_state=self.seed
            )
        except ValueError as error:
            raise ConfigError(f"data.{key}={value}: {len(split)} images do not divide so: {error}") from error
        return split.at(np.asarray(first)), split.at(np.asarray(second))
