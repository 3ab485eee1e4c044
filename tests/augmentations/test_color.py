"""Changes of color, and crops of another size, as SimCLR's views need them."""

from typing import Any

import pytest
import torch
from torchvision.transforms.v2 import functional

from augmenting import SHAPE, batch, seeded
from lithydra.augmentations.color import color_jitter, grayscale
from lithydra.augmentations.transforms import resized_crop
from lithydra.errors import ConfigError

ONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0}


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_color_jitter_is_torchvisions_adjustment_by_one_factor_an_image(name: str) -> None:
    images, labels = batch(4)
    strength = 0.3
    changed, same = seeded(color_jitter(SHAPE, 4, **{**ONE, name: strength}), images, labels)
    assert torch.equal(same, labels)
    adjust = getattr(functional, f"adjust_{name}")
    center = 0.0 if name == "hue" else 1.0
    factors = torch.linspace(center - strength, center + strength, 601).tolist()
    nearest = []
    for image, result in zip(images, changed, strict=True):
        distances = torch.stack([(adjust(image, factor) - result).abs().max() for factor in factors])
        assert distances.min() < 5e-3
        nearest.append(factors[int(distances.argmin())])
    assert len({round(factor, 2) for factor in nearest}) == 4


def test_grayscale_takes_the_colors_of_some_images() -> None:
    images, labels = batch(400)
    changed, _ = seeded(grayscale(SHAPE, 4, probability=0.25), images, labels)
    gray = (changed == changed[:, :1]).all(dim=(1, 2, 3))
    assert 0.18 < gray.float().mean() < 0.32
    assert torch.equal(changed[~gray], images[~gray])
    torch.testing.assert_close(changed[gray], functional.rgb_to_grayscale(images[gray], 3), atol=2e-3, rtol=0)


def test_images_without_colors_keep_brightness_and_contrast() -> None:
    images, labels = torch.rand(8, 1, 12, 12), torch.arange(8) % 4
    assert torch.equal(grayscale((1, 12, 12), 4, probability=1.0)(images, labels)[0], images)
    changed = seeded(color_jitter((1, 12, 12), 4, probability=1.0), images, labels)[0]
    assert changed.shape == images.shape and not torch.equal(changed, images)
    for make in (color_jitter, grayscale):
        with pytest.raises(
            ConfigError, match=rf"augmentation={make.__name__}: needs images of 1 or 3 channels.*have 4"
        ):
            make((4, 12, 12), 4)


def test_resized_crop_shows_a_part_of_each_image_in_full_size() -> None:
    height, width = 32, 32
    row = torch.linspace(0, 1, height).view(height, 1).expand(height, width)
    images = torch.stack([row, row.T, torch.zeros(height, width)]).expand(50, 3, height, width)
    labels = torch.zeros(50, dtype=torch.int64)
    changed, _ = seeded(resized_crop((3, height, width), 4, area=(0.25, 0.25), ratio=(1.0, 1.0)), images, labels)
    for axis in (0, 1):  # a quarter of the image is half of its height and width
        plane = changed[:, axis]
        seen = plane.amax((1, 2)) - plane.amin((1, 2))
        assert ((seen > 0.4) & (seen < 0.56)).all()
        assert plane.amin((1, 2)).std() > 0.05
    whole = seeded(resized_crop((3, height, width), 4, area=(1.0, 1.0), ratio=(1.0, 1.0)), images, labels)[0]
    torch.testing.assert_close(whole, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "key", "value", "allowed"),
    [
        (color_jitter, "brightness", 1.5, "from 0 to 1"),
        (color_jitter, "contrast", -0.1, "from 0 to 1"),
        (color_jitter, "saturation", "much", "from 0 to 1"),
        (color_jitter, "hue", 0.6, "from 0 to 0.5"),
        (color_jitter, "probability", 2, "from 0 to 1"),
        (grayscale, "probability", -1, "from 0 to 1"),
        (resized_crop, "area", [0.5, 0.2], "[low, high] with 0 < low <= high <= 1"),
        (resized_crop, "ratio", 1, "[low, high] with 0 < low <= high"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make: Any, key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(SHAPE, 4, **{key: value})
    assert str(error.value) == f"augmentation.{make.__name__}.{key}={value}: must be {allowed}"
