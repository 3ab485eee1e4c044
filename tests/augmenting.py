"""What the tests of augmentations share: the shipped ones, built, and batches for them."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from lithydra.augmentations.chain import Chain

CONF = Path(__file__).parents[1] / "conf" / "augmentation"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "none")
SHAPE = (3, 8, 8)


def build(name: str, image_shape: tuple[int, ...] = SHAPE, **changes: Any) -> nn.Module:
    config = OmegaConf.merge({"seed": 0}, OmegaConf.load(CONF / f"{name}.yaml"), {name: changes})
    return instantiate(OmegaConf.select(config, name), image_shape=image_shape, num_classes=4)


def batch(size: int = 16, image_shape: tuple[int, ...] = SHAPE) -> tuple[Tensor, Tensor]:
    """Equal images without a zero or a symmetry, so that any difference comes from the augmentation."""
    pixels = torch.linspace(0.1, 1, torch.Size(image_shape).numel()).view(image_shape)
    return pixels.repeat(size, 1, 1, 1), torch.arange(size) % 4


def seeded(augment: nn.Module, images: Tensor, labels: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    chain = Chain([augment])
    chain.set_position(seed, torch.arange(len(images)))
    return chain(images, labels)
