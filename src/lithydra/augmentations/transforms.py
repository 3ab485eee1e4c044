"""Random augmentation of whole training batches on their device, each image with its own random numbers.

Every function here builds a module `augment(images, labels) -> (images, labels)`: images (B, C, H, W) float32 in
[0, 1], labels (B,) int64 or probabilities (B, classes), which MixUp and CutMix make of them. Random numbers come from
torch's global generators alone, so that restoring their state makes a resumed run exact. All take the data's
`image_shape` (C, H, W) and `num_classes`, whether they need them or not.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lithydra.errors import ConfigError

# kornia and torchvision's v2 are imported where they are used: each adds to the start of runs that don't need it.


class ImageAugmentation(nn.Module):
    """Applies transforms to the images and leaves the labels alone."""

    def __init__(self, *transforms: nn.Module) -> None:
        super().__init__()
        self.transforms = nn.Sequential(*transforms)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # Autocast would compute the sampling grid in bfloat16, which is off by whole pixels in large images.
        with torch.autocast(images.device.type, enabled=False):
            return self.transforms(images), labels


def flip(image_shape: Sequence[int], num_classes: int, probability: float = 0.5) -> nn.Module:
    """Mirrors an image, left to right."""
    from kornia.augmentation import RandomHorizontalFlip

    _check("flip.probability", probability, lambda p: 0 <= p <= 1, "from 0 to 1")
    return ImageAugmentation(RandomHorizontalFlip(p=probability))


class AlternatingFlip(nn.Module):
    """Mirrors half of the images in one epoch, the other half in the next: two epochs show both sides of each.

    Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024, section 3.6. Which half an image is of depends on
    the seed and on its place in the training set alone: nothing random is drawn.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.flipped = torch.zeros(0, dtype=torch.bool)

    def set_position(self, epoch: int, positions: Tensor) -> None:
        """Called before each batch: the epoch, from 0, and its images' places in the training set, (B,) int64."""
        self.flipped = _mixed(positions + 0x9E3779B9 * self.seed % 2**32) % 2 == epoch % 2

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(self.flipped[:, None, None, None], images.flip(3), images), labels


def _mixed(numbers: Tensor) -> Tensor:
    """Hashes of int64, from 0 to 2^32 - 1, each bit of which depends on all bits below 2^32: MurmurHash3's fmix32."""
    mixed = numbers & 0xFFFFFFFF
    for bits, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ mixed >> bits) * factor & 0xFFFFFFFF  # int64 overflows, which leaves its lower bits right
    return mixed ^ mixed >> 16


def shift(image_shape: Sequence[int], num_classes: int, pixels: int = 2) -> nn.Module:
    """Moves an image by up to `pixels` each way; what comes in at the border is the image's mirror image."""
    side = min(image_shape[1:])
    _check(
        "shift.pixels", pixels, lambda n: isinstance(n, int) and 0 < n < side, f"a whole number from 1 to {side - 1}"
    )
    return ImageAugmentation(_Shift(pixels))


class _Shift(nn.Module):
    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor) -> Tensor:
        size, (height, width) = len(images), images.shape[2:]
        padded = nn.functional.pad(images, [self.pixels] * 4, mode="reflect").permute(0, 2, 3, 1)
        top, left = torch.randint(0, 2 * self.pixels + 1, (2, size, 1), device=images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        image = torch.arange(size, device=images.device)
        return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip_crop(
    image_shape: Sequence[int], num_classes: int, padding: int = 4, flip_probability: float = 0.5
) -> nn.Module:
    """Horizontal flip, then a crop of the image's size from the image padded with zeros.

    He et al., "Deep residual learning for image recognition", 2016, section 4.2.
    """
    from kornia.augmentation import RandomCrop, RandomHorizontalFlip

    _, height, width = image_shape
    side = min(height, width)
    _check(
        "flip_crop.padding",
        padding,
        lambda n: isinstance(n, int) and 0 <= n < side,
        f"a whole number from 0 to {side - 1}",
    )
    _check("flip_crop.flip_probability", flip_probability, lambda p: 0 <= p <= 1, "from 0 to 1")
    flip = RandomHorizontalFlip(p=flip_probability)
    return ImageAugmentation(flip, RandomCrop((height, width), padding=padding)) if padding else ImageAugmentation(flip)


def resized_crop(
    image_shape: Sequence[int],
    num_classes: int,
    area: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (0.75, 1.3333),
) -> nn.Module:
    """Cuts a rectangle out and scales it to the image's size, bilinear.

    Szegedy et al., "Going deeper with convolutions", 2015, section 6.

    Args:
        image_shape: (C, H, W).
        num_classes: of the data.
        area: range of its part of the image, above 0, up to 1.
        ratio: range of its width by its height, above 0.
    """
    from kornia.augmentation import RandomResizedCrop

    _check_area("resized_crop.area", area)
    _check_ratio("resized_crop.ratio", ratio)
    size = (image_shape[1], image_shape[2])
    # "resample" cuts all images at once
    return ImageAugmentation(
        RandomResizedCrop(size, scale=tuple(area), ratio=tuple(ratio), cropping_mode="resample")  # pyright: ignore
    )


def affine(
    image_shape: Sequence[int],
    num_classes: int,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: Sequence[float] = (0.9, 1.1),
    shear: float = 0.0,
) -> nn.Module:
    """Rotation, shift, scale and horizontal shear in one bilinear resampling; outside of the image is 0.

    Args:
        image_shape: (C, H, W).
        num_classes: of the data.
        degrees: rotation within ± this, 0 to 180.
        translate: shift within ± this part of the image's side, 0 to 1.
        scale: range of the magnification; [1, 1] for none.
        shear: within ± this, in degrees, 0 to below 90.
    """
    from kornia.augmentation import RandomAffine

    _check("affine.degrees", degrees, lambda d: 0 <= d <= 180, "from 0 to 180")
    _check("affine.translate", translate, lambda t: 0 <= t <= 1, "from 0 to 1")
    _check_ratio("affine.scale", scale)
    _check("affine.shear", shear, lambda s: 0 <= s < 90, "from 0 to below 90")
    low, high = scale
    return ImageAugmentation(
        RandomAffine(
            degrees=float(degrees),
            translate=(translate, translate) if translate else None,
            scale=(low, high) if (low, high) != (1, 1) else None,
            shear=float(shear) if shear else None,
            p=1.0,
        )
    )


def cutout(image_shape: Sequence[int], num_classes: int, side: float = 0.5, probability: float = 1.0) -> nn.Module:
    """Sets a square to 0.

    DeVries & Taylor, "Improved regularization of convolutional neural networks with cutout", 2017, section 3, except
    that the square lies inside the image.

    Args:
        image_shape: (C, H, W).
        num_classes: of the data.
        side: of the square, as a part of the image's (the root of height · width), above 0, up to 1.
        probability: that an image gets a square.
    """
    from kornia.augmentation import RandomErasing

    _check("cutout.side", side, lambda s: 0 < s <= 1, "above 0, up to 1")
    _check("cutout.probability", probability, lambda p: 0 <= p <= 1, "from 0 to 1")
    return ImageAugmentation(RandomErasing(scale=(side**2, side**2), ratio=(1.0, 1.0), p=probability))


def random_erasing(
    image_shape: Sequence[int],
    num_classes: int,
    probability: float = 0.5,
    area: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
) -> nn.Module:
    """Sets a rectangle to 0.

    Zhong et al., "Random erasing data augmentation", 2020, algorithm 1, with 0 for random values.

    Args:
        image_shape: (C, H, W).
        num_classes: of the data.
        probability: that an image gets a rectangle.
        area: range of its part of the image, above 0, up to 1.
        ratio: range of its height by its width, above 0.
    """
    from kornia.augmentation import RandomErasing

    _check("random_erasing.probability", probability, lambda p: 0 <= p <= 1, "from 0 to 1")
    _check_area("random_erasing.area", area)
    _check_ratio("random_erasing.ratio", ratio)
    return ImageAugmentation(RandomErasing(scale=tuple(area), ratio=tuple(ratio), p=probability))  # pyright: ignore


def mixup(image_shape: Sequence[int], num_classes: int, alpha: float = 0.2) -> nn.Module:
    """Blends each image and label with another's, by one Beta(alpha, alpha) weight a batch.

    Zhang et al., "mixup: Beyond empirical risk minimization", 2018, equation 1.
    """
    from torchvision.transforms import v2

    _check_alpha("mixup", alpha)
    return v2.MixUp(alpha=float(alpha), num_classes=num_classes)


def cutmix(image_shape: Sequence[int], num_classes: int, alpha: float = 1.0) -> nn.Module:
    """Replaces a rectangle of each image by another's, one rectangle a batch; labels blend by area.

    Yun et al., "CutMix: Regularization strategy to train strong classifiers", 2019, section 3.1.
    """
    from torchvision.transforms import v2

    _check_alpha("cutmix", alpha)
    return v2.CutMix(alpha=float(alpha), num_classes=num_classes)


def _check_alpha(name: str, alpha: float) -> None:
    _check(f"{name}.alpha", alpha, lambda a: 0 < a < math.inf, "above 0")


def _check_area(key: str, area: Sequence[float]) -> None:
    _check(key, area, lambda a: len(a) == 2 and 0 < a[0] <= a[1] <= 1, "[low, high] with 0 < low <= high <= 1")


def _check_ratio(key: str, ratio: Sequence[float]) -> None:
    _check(key, ratio, lambda r: len(r) == 2 and 0 < r[0] <= r[1] < math.inf, "[low, high] with 0 < low <= high")


def _check(key: str, value: Any, valid: Callable[[Any], bool], allowed: str) -> None:
    try:
        ok = valid(value)
    except TypeError:  # text, null, or a list where a number belongs
        ok = False
    if not ok:
        raise ConfigError(f"augmentation.{key}={value}: must be {allowed}")
