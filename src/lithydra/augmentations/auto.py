"""RandAugment and TrivialAugment on whole batches: each image gets an operation of its own, on the batch's device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lithydra.augmentations.transforms import ImageAugmentation, _check

HIGHEST = 30  # magnitude
SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast", "sharpness")

Operation = Callable[[Tensor, Tensor], Tensor]


def rand_augment(image_shape: Sequence[int], num_classes: int, num_ops: int = 2, magnitude: float = 9.0) -> nn.Module:
    """Some operations one after the other, drawn for each image, all of one magnitude.

    Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020, section 3,
    with the operations and ranges of torchvision's RandAugment, but bilinear resampling.

    Args:
        image_shape: (C, H, W).
        num_classes: of the data.
        num_ops: operations an image, 1 to 14.
        magnitude: 0 to 30.
    """
    height, width = image_shape[1:]
    most = _most(shear=0.3, pixels=(150 / 331 * width, 150 / 331 * height), degrees=30.0, factor=0.9, bits=4)
    _check(
        "rand_augment.num_ops",
        num_ops,
        lambda n: isinstance(n, int) and 0 < n <= len(most),
        f"a whole number, 1 to {len(most)}",
    )
    _check("rand_augment.magnitude", magnitude, lambda m: 0 <= m <= HIGHEST, f"from 0 to {HIGHEST}")
    return ImageAugmentation(*[OneOf(most, magnitude)] * num_ops)


def trivial_augment(image_shape: Sequence[int], num_classes: int) -> nn.Module:
    """One operation of one magnitude, both drawn for each image.

    Müller & Hutter, "TrivialAugment: Tuning-free yet state-of-the-art data augmentation", 2021, algorithm 1 with the
    wide ranges of table 1, except that an image moves by its own side at most, and with bilinear resampling.
    """
    height, width = image_shape[1:]
    most = _most(shear=0.99, pixels=(min(32, width), min(32, height)), degrees=135.0, factor=0.99, bits=6)
    return ImageAugmentation(OneOf(most, magnitude=None))


class OneOf(nn.Module):
    """One operation an image. What is drawn is drawn on the CPU, so that the device need not be waited for.

    Args:
        most: By operation, its amount at the highest magnitude.
        magnitude: Of all images, 0 to 30; None draws a whole one for each.
    """

    def __init__(self, most: dict[str, float], magnitude: float | None) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.most = torch.tensor([*most.values()], dtype=torch.float32)
        self.signed = torch.tensor([name in SIGNED for name in most])
        known = operations()
        self.operations = [known[name] for name in most]

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1], before and after."""
        drawn = torch.randint(len(self.most), (len(images),))
        rows = drawn.argsort(stable=True)  # images of one operation beside each other
        amounts = self._amounts(drawn)[rows].to(images.device, non_blocking=True)
        counts, rows = drawn.bincount(minlength=len(self.most)).tolist(), rows.to(images.device, non_blocking=True)
        groups = zip(self.operations, images[rows].split(counts), amounts.split(counts), strict=True)
        changed = [operation(group, amount) for operation, group, amount in groups if len(group)]
        return torch.empty_like(images).index_copy_(0, rows, torch.cat(changed))

    def _amounts(self, drawn: Tensor) -> Tensor:
        """(B,) float32 for the operations `drawn`, (B,) int64. As much is drawn whatever these are."""
        levels = torch.randint(HIGHEST + 1, drawn.shape).float()
        signs = torch.randint(2, drawn.shape) * 2 - 1
        if self.magnitude is not None:
            levels = torch.full_like(levels, self.magnitude)
        return self.most[drawn] * levels / HIGHEST * torch.where(self.signed[drawn], signs, 1)


def _most(*, shear: float, pixels: tuple[float, float], degrees: float, factor: float, bits: float) -> dict[str, float]:
    """By operation, its amount at the highest magnitude; 0 for those that have none."""
    moves = {"shear_x": shear, "shear_y": shear, "translate_x": pixels[0], "translate_y": pixels[1], "rotate": degrees}
    factors = dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor)
    without = dict.fromkeys(("identity", "autocontrast", "equalize"), 0.0)
    return {**moves, **factors, "posterize": bits, "solarize": 1.0, **without}


def operations() -> dict[str, Operation]:
    """By name, what changes images (B, C, H, W) float32 in [0, 1] by amounts (B,) float32.

    Amounts are: of a shear, its tangent; of a translation, pixels; of a rotation, degrees counter-clockwise; of
    brightness, color, contrast and sharpness, what is added to the factor 1; of posterize, bits that are dropped of 8;
    of solarize, the part of [0, 1], from above, that is inverted. Outside of the image is 0.
    """
    from kornia import enhance
    from kornia.geometry import transform
    from torchvision.transforms.v2 import functional

    def along(axis: int, amounts: Tensor) -> Tensor:
        return amounts[:, None] * torch.eye(2, dtype=amounts.dtype, device=amounts.device)[axis]

    def sheared(axis: int) -> Operation:
        return lambda images, amounts: transform.shear(images, along(axis, amounts), align_corners=True)

    def moved(axis: int) -> Operation:
        return lambda images, amounts: transform.translate(images, along(axis, amounts.trunc()))

    return {
        "identity": lambda images, amounts: images,
        "shear_x": sheared(0),
        "shear_y": sheared(1),
        "translate_x": moved(0),
        "translate_y": moved(1),
        "rotate": transform.rotate,
        "brightness": lambda images, amounts: enhance.adjust_brightness_accumulative(images, 1 + amounts),
        "color": lambda images, amounts: enhance.adjust_saturation_with_gray_subtraction(images, 1 + amounts),
        "contrast": lambda images, amounts: enhance.adjust_contrast_with_mean_subtraction(images, 1 + amounts),
        "sharpness": lambda images, amounts: enhance.sharpness(images, 1 + amounts) if _has_inside(images) else images,
        "posterize": lambda images, amounts: enhance.posterize(images, 8 - amounts.round().int()),
        "solarize": lambda images, amounts: enhance.solarize(images, 1 - amounts),
        "autocontrast": lambda images, amounts: functional.autocontrast(images),
        "equalize": lambda images, amounts: functional.equalize(images),
    }


def _has_inside(images: Tensor) -> bool:
    """Whether a pixel has neighbors on all sides, which sharpness needs."""
    return min(images.shape[2:]) > 2
