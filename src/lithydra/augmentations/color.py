"""Random changes of color, each image with its own; an image of one channel has brightness and contrast alone."""

from collections.abc import Sequence

from torch import nn

from lithydra.augmentations.transforms import ImageAugmentation, _check
from lithydra.errors import ConfigError


def color_jitter(
    image_shape: Sequence[int],
    num_classes: int,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    probability: float = 0.8,
) -> nn.Module:
    """Changes brightness, contrast, saturation and hue, in an order that is drawn for a batch.

    Chen et al., "A simple framework for contrastive learning of visual representations", 2020, appendix A; the
    defaults are half of its strength, as it takes for CIFAR-10. The formulas are those of torchvision's ColorJitter.

    Args:
        image_shape: (C, H, W); C is 1 or 3.
        num_classes: of the data.
        brightness: factor within 1 ± this, 0 to 1.
        contrast: factor within 1 ± this, 0 to 1.
        saturation: factor within 1 ± this, 0 to 1.
        hue: turned within ± this part of the color circle, 0 to 0.5.
        probability: that an image is changed.
    """
    from kornia.augmentation import ColorJitter

    for name, value, most in (
        ("brightness", brightness, 1),
        ("contrast", contrast, 1),
        ("saturation", saturation, 1),
        ("hue", hue, 0.5),
        ("probability", probability, 1),
    ):
        _check(f"color_jitter.{name}", value, lambda v, most=most: 0 <= v <= most, f"from 0 to {most}")
    if not _has_colors("color_jitter", image_shape):
        saturation = hue = 0.0
    return ImageAugmentation(ColorJitter(brightness, contrast, saturation, hue, p=probability))


def grayscale(image_shape: Sequence[int], num_classes: int, probability: float = 0.2) -> nn.Module:
    """Takes an image's colors away."""
    from kornia.augmentation import RandomGrayscale

    _check("grayscale.probability", probability, lambda p: 0 <= p <= 1, "from 0 to 1")
    colors = _has_colors("grayscale", image_shape)
    return ImageAugmentation(RandomGrayscale(p=probability)) if colors else ImageAugmentation()


def _has_colors(name: str, image_shape: Sequence[int]) -> bool:
    channels = image_shape[0]
    if channels not in (1, 3):
        raise ConfigError(f"augmentation={name}: needs images of 1 or 3 channels, and the data have {channels}")
    return channels == 3
