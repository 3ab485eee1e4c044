"""Data for a LightningModule of a person's own: batches as it expects them, and what is recorded of them."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from lithydra.augmentations.chain import Chain
from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch
from lithydra.data.splits import Batch
from lithydra.normalization import Normalization
from lithydra.training.classifiers import augmentation
from lithydra.training.instantiate import make


def give_floats(config: DictConfig, data: Any, trained_with: dict[str, list[float]] | None = None) -> None:
    """Have lithydra's data sets give batches as a LightningModule expects them; those of a person's own do already.

    Args:
        trained_with: Mean and standard deviation by channel to normalize with; None: those of these data.
    """
    if isinstance(data, ImageDataModule):
        augment = augmentation(config, data.image_shape, data.num_classes)
        normalization = Normalization(**trained_with) if trained_with else make(config, "normalization")(data.pixels())
        data.as_floats = as_floats(normalization, augment)


def as_floats(normalization: Normalization, augment: Chain) -> Callable[[TrainingBatch | Batch], Batch]:
    """Batches as a LightningModule expects them: images (B, C, H, W) float32, in training augmented, and normalized."""

    def convert(batch: TrainingBatch | Batch) -> Batch:
        images, labels = batch[0], batch[1]
        if isinstance(batch, TrainingBatch):
            augment.set_position(batch.epoch, batch.positions)
            images, labels = augment(images, labels)
        return normalization.to(images.device)(images), labels

    convert.normalization = normalization  # pyright: ignore[reportFunctionMemberAccess]
    return convert


def facts(data: Any) -> dict[str, Any]:
    """What is recorded of the data; of a LightningDataModule of a person's own, its name."""
    if isinstance(data, ImageDataModule):
        return data.facts()
    return {"name": type(data).__name__, "class_names": [], "image_shape": [], "num_train": None, "num_val": None}


def constants(data: Any) -> dict[str, list[float]] | None:
    """Mean and standard deviation by channel that images are normalized with; None where the module does it itself."""
    normalization = getattr(getattr(data, "as_floats", None), "normalization", None)
    if normalization is None:
        return None
    return {name: getattr(normalization, name).flatten().tolist() for name in ("mean", "std")}


def fingerprint(data: Any) -> dict[str, str]:
    """Checksums of the data, where they are known."""
    return data.fingerprint() if isinstance(data, ImageDataModule) else {}
