from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from augmenting import CONF, NAMES, SHAPE, batch, build, seeded
from lithydra.augmentations import transforms
from lithydra.augmentations.transforms import AlternatingFlip, affine, cutmix, cutout, flip, flip_crop, mixup, shift
from lithydra.errors import ConfigError

# Those that draw once an image; the others draw once a batch, or mirror the image or not.
OF_EACH_IMAGE = [
    *("affine", "color_jitter", "cutout", "flip_crop", "rand_augment", "random_erasing", "resized_crop", "shift"),
    "trivial_augment",
]


def test_none_has_no_target() -> None:
    assert OmegaConf.load(CONF / "none.yaml") == {}


@pytest.mark.parametrize("image_shape", [SHAPE, (1, 28, 28), (3, 12, 20)])
@pytest.mark.parametrize("name", NAMES)
def test_every_config_keeps_shape_type_and_range(name: str, image_shape: tuple[int, ...]) -> None:
    images, labels = batch(image_shape=image_shape)
    before = images.clone()
    augmented, new_labels = seeded(build(name, image_shape), images, labels)
    assert augmented.shape == images.shape and augmented.dtype == torch.float32
    assert augmented.min() >= 0 and augmented.max() <= 1 + 1e-6
    assert torch.equal(images, before)
    if name in ("mixup", "cutmix"):
        assert new_labels.shape == (16, 4) and new_labels.dtype == torch.float32
        torch.testing.assert_close(new_labels.sum(1), torch.ones(16))
    else:
        assert torch.equal(new_labels, labels)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_draws_from_the_global_generator(name: str) -> None:
    images = torch.rand(16, *SHAPE)
    labels = torch.arange(16) % 4
    augment = build(name)
    first, again, other = (seeded(augment, images, labels, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, images)


@pytest.mark.parametrize("name", OF_EACH_IMAGE)
def test_images_of_a_batch_get_their_own_random_numbers(name: str) -> None:
    augmented, _ = seeded(build(name), *batch())
    assert len(torch.unique(augmented, dim=0)) > 4


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_works(name: str) -> None:
    assert seeded(build(name), *batch(size=1))[0].shape == (1, *SHAPE)


@pytest.mark.parametrize("name", NAMES)
def test_precision_is_kept_under_autocast(name: str) -> None:
    augment = build(name)
    expected, _ = seeded(augment, *batch())
    with torch.autocast("cpu", torch.bfloat16):
        augmented, _ = seeded(augment, *batch())
    assert torch.equal(augmented, expected)


def test_flip_without_padding_mirrors_each_image_or_none() -> None:
    images, labels = batch()
    augment = flip_crop(SHAPE, 4, padding=0, flip_probability=0.5)
    augmented, _ = seeded(augment, images, labels)
    flipped = (augmented == images.flip(3)).all(dim=(1, 2, 3))
    kept = (augmented == images).all(dim=(1, 2, 3))
    assert flipped.any() and kept.any() and (flipped | kept).all()


def windows(padded: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Every part (C, H, W) of a larger image, stacked."""
    _, height, width = image_shape
    return padded.unfold(1, height, 1).unfold(2, width, 1).permute(1, 2, 0, 3, 4).reshape(-1, *image_shape)


def test_crop_is_a_window_of_the_padded_image() -> None:
    images, labels = batch()
    augmented, _ = seeded(flip_crop(SHAPE, 4, padding=2, flip_probability=0.0), images, labels)
    allowed = windows(torch.nn.functional.pad(images[0], (2, 2, 2, 2)), SHAPE)
    assert all((allowed == image).all(dim=(1, 2, 3)).any() for image in augmented)


@pytest.mark.parametrize("image_shape", [SHAPE, (1, 6, 9)])
def test_shift_takes_a_window_of_the_reflected_image_for_each_image(image_shape: tuple[int, ...]) -> None:
    images, labels = torch.rand(200, *image_shape), torch.zeros(200).long()
    augmented, _ = seeded(shift(image_shape, 4, pixels=2), images, labels)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    places = [
        (windows(whole, image_shape) == image).all(dim=(1, 2, 3)).nonzero().flatten().tolist()
        for whole, image in zip(padded, augmented, strict=True)
    ]
    assert all(len(place) == 1 for place in places)
    assert {place for (place,) in places} == set(range(25))  # up to 2 pixels each way: all of 5 x 5


def test_flip_mirrors_each_image_or_none() -> None:
    images, labels = batch(100)
    augmented, _ = seeded(flip(SHAPE, 4), images, labels)
    flipped = (augmented == images.flip(3)).all(dim=(1, 2, 3))
    assert 30 < flipped.sum() < 70 and torch.equal(augmented[~flipped], images[~flipped])
    assert torch.equal(flip(SHAPE, 4, probability=1)(images, labels)[0], images.flip(3))
    assert torch.equal(flip(SHAPE, 4, probability=0)(images, labels)[0], images)


def flipped_in(epoch: int, seed: int, positions: Tensor) -> Tensor:
    """Which images are mirrored, (N,)."""
    images, labels = batch(len(positions), (1, 2, 2))
    augment = AlternatingFlip((1, 2, 2), 4, seed=seed)
    augment.set_position(epoch, positions)
    return (augment(images, labels)[0] == images.flip(3)).all(dim=(1, 2, 3))


def test_alternating_flip_mirrors_each_image_in_every_other_epoch() -> None:
    positions = torch.arange(10_000)
    first, second, third = (flipped_in(epoch, 0, positions) for epoch in (0, 1, 2))
    assert torch.equal(second, ~first) and torch.equal(third, first)
    for stride in (1, 2, 10):  # labels and sources often follow each other in turns
        assert first[::stride].float().mean() == pytest.approx(0.5, abs=0.05)


def test_alternating_flip_goes_by_seed_and_position_alone() -> None:
    positions = torch.arange(10_000)
    order = torch.randperm(len(positions))
    first = flipped_in(0, 0, positions)
    torch.manual_seed(5)
    assert torch.equal(flipped_in(0, 0, order), first[order])
    for seed in (*range(1, 20), 2**32 - 1):
        assert (flipped_in(0, seed, positions) == first).float().mean() == pytest.approx(0.5, abs=0.03)


def test_alternating_flip_draws_nothing() -> None:
    before = torch.get_rng_state()
    flipped_in(0, 0, torch.arange(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_affine_with_all_parts_off_changes_nothing() -> None:
    images, labels = batch()
    augment = affine(SHAPE, 4, degrees=0, translate=0, scale=(1, 1), shear=0)
    torch.testing.assert_close(augment(images, labels)[0], images)


@pytest.mark.parametrize("part", [{"degrees": 20}, {"translate": 0.2}, {"scale": [0.5, 0.9]}, {"shear": 20}], ids=str)
def test_each_part_of_affine_works_alone(part: dict[str, Any]) -> None:
    off = {"degrees": 0, "translate": 0, "scale": [1, 1], "shear": 0}
    images, labels = batch()
    augmented, _ = seeded(build("affine", **(off | part)), images, labels)
    assert (augmented - images).abs().max() > 0.05


def test_cutout_zeroes_one_square_an_image() -> None:
    images, labels = batch()
    augmented, _ = seeded(cutout(SHAPE, 4, side=0.5), images, labels)
    zero = augmented == 0
    assert (zero.sum(dim=(1, 2, 3)) == 3 * 4 * 4).all()
    assert (zero.any(dim=2).sum(dim=2) == 4).all() and (zero.any(dim=3).sum(dim=2) == 4).all()
    assert torch.equal(augmented[~zero], images[~zero])
    assert torch.equal(cutout(SHAPE, 4, probability=0.0)(images, labels)[0], images)


def test_random_erasing_zeroes_a_rectangle_of_its_own_in_each_image() -> None:
    shape = (3, 40, 50)
    images, labels = torch.rand(100, *shape) * 0.9 + 0.1, torch.zeros(100).long()
    augmented, _ = seeded(build("random_erasing", shape, probability=1, area=[0.1, 0.2]), images, labels)
    zero = (augmented == 0).all(dim=1)
    assert torch.equal((augmented == 0).any(dim=1), zero)
    height, width = zero.any(dim=2).sum(dim=1), zero.any(dim=1).sum(dim=1)
    assert torch.equal(zero.sum(dim=(1, 2)), height * width)
    area = height * width / (40 * 50)
    assert 0.08 < area.min() < 0.11 and 0.17 < area.max() < 0.21  # of whole pixels
    assert (height / width).min() < 0.5 and (height / width).max() > 2
    kept = ~zero[:, None].expand_as(images)
    assert torch.equal(augmented[kept], images[kept])


def test_random_erasing_leaves_some_images() -> None:
    images, labels = batch(200, (1, 20, 20))
    augmented, _ = seeded(build("random_erasing", (1, 20, 20)), images, labels)
    assert 70 < (augmented == images).all(dim=(1, 2, 3)).sum() < 130
    assert torch.equal(build("random_erasing", probability=0)(*batch())[0], batch()[0])


def test_mixup_blends_images_and_labels_by_the_same_weight() -> None:
    images, labels = torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, probabilities = seeded(mixup(SHAPE, 4, alpha=1.0), images, labels)
    weight = probabilities[0, 0]
    assert 0 < weight < 1
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images.roll(1, 0))


def test_cutmix_labels_blend_by_the_area_of_the_rectangle() -> None:
    images, labels = torch.rand(6, *SHAPE), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed, probabilities = seeded(cutmix(SHAPE, 4), images, labels)
    own = mixed == images
    assert torch.equal(mixed[~own], images.roll(1, 0)[~own])
    assert 0 < own.float().mean() < 1
    assert probabilities[0, 0].item() == pytest.approx(own.float().mean().item())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixup", {"alpha": 1}),
        ("cutmix", {"alpha": 1}),
        ("affine", {"degrees": 10, "translate": 1, "scale": [1, 2], "shear": 5}),
        ("cutout", {"side": 1, "probability": 1}),
        ("flip_crop", {"padding": 1, "flip_probability": 1}),
        ("flip", {"probability": 1}),
        ("random_erasing", {"probability": 1, "area": [1, 1], "ratio": [1, 1]}),
        ("rand_augment", {"magnitude": 30}),
    ],
)
def test_whole_numbers_are_numbers(name: str, changes: dict[str, Any]) -> None:
    images, labels = batch()
    assert seeded(build(name, **changes), images, labels)[0].isfinite().all()


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [
        ("mixup", "alpha", -1, "above 0"),
        ("cutmix", "alpha", 0, "above 0"),
        ("mixup", "alpha", "big", "above 0"),
        ("flip_crop", "padding", -1, "a whole number from 0 to 7"),
        ("flip_crop", "padding", 8, "a whole number from 0 to 7"),
        ("flip_crop", "padding", 1.5, "a whole number from 0 to 7"),
        ("flip_crop", "flip_probability", 1.5, "from 0 to 1"),
        ("cutout", "probability", -0.1, "from 0 to 1"),
        ("cutout", "side", 0, "above 0, up to 1"),
        ("affine", "degrees", -5, "from 0 to 180"),
        ("affine", "translate", 2, "from 0 to 1"),
        ("affine", "scale", [1.1, 0.9], "[low, high] with 0 < low <= high"),
        ("affine", "scale", 1.1, "[low, high] with 0 < low <= high"),
        ("affine", "scale", [1], "[low, high] with 0 < low <= high"),
        ("affine", "shear", 90, "from 0 to below 90"),
        ("flip", "probability", 2, "from 0 to 1"),
        ("shift", "pixels", 0, "a whole number from 1 to 7"),
        ("shift", "pixels", 8, "a whole number from 1 to 7"),
        ("shift", "pixels", 1.0, "a whole number from 1 to 7"),
        ("random_erasing", "probability", -1, "from 0 to 1"),
        ("random_erasing", "area", [0.3, 0.2], "[low, high] with 0 < low <= high <= 1"),
        ("random_erasing", "area", [0.3, 1.2], "[low, high] with 0 < low <= high <= 1"),
        ("random_erasing", "ratio", [0, 1], "[low, high] with 0 < low <= high"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        getattr(transforms, name)(SHAPE, 4, **{key: value})
    assert str(error.value) == f"augmentation.{name}.{key}={value}: must be {allowed}"
