"""The run of a person's own LightningModule: evaluated, and where its module classifies, used as a classifier."""

from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig
from torch import nn

from lithydra.augmentations.chain import Chain
from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError
from lithydra.methods.base import Parts
from lithydra.methods.supervised import Supervised
from lithydra.metrics import accuracy
from lithydra.normalization import Normalization
from lithydra.training.classifier import Classifier
from lithydra.training.own_data import give_floats
from lithydra.training.own_module import logged, missing

STEPS = {"test": "test", "val": "validation"}  # by split


def evaluate_own(trainer: L.Trainer, module: L.LightningModule, record: dict[str, Any], data: Any, split: str) -> Any:
    """What the module logs of a split, and the number of its images where that is known.

    Args:
        record: Of the checkpoint.

    Raises:
        ConfigError: The module has no step for this split.
    """
    if split not in STEPS:
        raise ConfigError(f"split={split}: a module of one's own is evaluated on {' or '.join(STEPS)}")
    if lacking := missing(STEPS[split], module, data):
        raise ConfigError(f"split={split}: {lacking}")
    give_floats(DictConfig(record["config"]), data, record["normalization"])
    evaluate = trainer.test if split == "test" else trainer.validate
    evaluate(module, datamodule=data, verbose=False)
    part = getattr(data, split) if isinstance(data, ImageDataModule) else None
    return logged(trainer), None if part is None else len(part)


def as_classifier(module: L.LightningModule, record: dict[str, Any]) -> Classifier:
    """A classifier of raw images, where the module's `forward` gives logits of normalized ones.

    Raises:
        ConfigError: It gives something else.
    """
    facts, constants = record["data"], record["normalization"]
    if constants is None:
        raise ConfigError(f"data: of {facts['name']} it is not known how an image becomes what the module takes")
    names, shape = facts["class_names"], tuple(facts["image_shape"])
    with torch.no_grad():
        given = module(torch.zeros(2, *shape))
    if tuple(getattr(given, "shape", ())) != (2, len(names)):
        found = tuple(given.shape) if hasattr(given, "shape") else f"a {type(given).__name__}"
        raise ConfigError(f"module: its forward gives {found} for 2 images, and no logits of {len(names)} classes")
    normalization = Normalization(constants["mean"], constants["std"])
    method = Supervised()
    method.bind(Parts(module, nn.CrossEntropyLoss(), normalization, Chain(), shape, names, lambda run: run))
    classifier = Classifier(method, len(names), {"acc": accuracy(len(names))})
    classifier.record = record
    return classifier.eval()
