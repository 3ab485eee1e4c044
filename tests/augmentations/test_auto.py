from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kornia
import pytest
import torch
from packaging.version import Version
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from augmenting import SHAPE, batch, build, seeded
from conftest import SMALL, RunTrain, assert_equal, weights
from killing import SETTINGS, Killing, SignalAt, differences
from lithydra.augmentations.auto import HIGHEST, SIGNED, OneOf, operations, rand_augment
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir

NAMES = list(operations())
SHAPES = [SHAPE, (1, 12, 20), (3, 20, 12), (1, 2, 2)]
AMOUNTS = {"translate_x": 2.0, "translate_y": 2.0, "rotate": 30.0, "posterize": 4.0}  # others: 0.5


def applied(name: str, images: Tensor, amount: float) -> Tensor:
    return operations()[name](images, torch.full((len(images),), amount))


@pytest.mark.parametrize("image_shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_changes_images_within_the_range(name: str, image_shape: tuple[int, ...]) -> None:
    images = torch.rand(4, *image_shape) * 0.8 + 0.1
    before, amount = images.clone(), AMOUNTS.get(name, 0.5)
    for signed in (amount, -amount) if name in SIGNED else (amount,):
        changed = applied(name, images, signed)
        assert changed.shape == images.shape and changed.dtype == torch.float32
        assert changed.min() >= 0 and changed.max() <= 1 + 1e-6
        unchanged = name == "identity" or (name, image_shape[0]) == ("color", 1)
        too_small = min(image_shape[1:]) < 3 and name == "sharpness"  # no pixel has neighbors on all sides
        assert torch.equal(changed, images) == (unchanged or too_small)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", SIGNED)
def test_an_amount_of_0_changes_nothing(name: str) -> None:
    images = torch.rand(4, *SHAPE)
    torch.testing.assert_close(applied(name, images, 0.0), images)


@pytest.mark.parametrize("name", NAMES)
def test_each_image_gets_its_own_amount(name: str) -> None:
    images, amounts = torch.rand(3, *SHAPE), torch.tensor([0.2, 1.0, 0.5]) * AMOUNTS.get(name, 0.5)
    together = operations()[name](images, amounts)
    alone = [applied(name, image[None], amount) for image, amount in zip(images, amounts.tolist(), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


IMAGE = torch.randint(256, (1, 3, 12, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
BILINEAR = InterpolationMode.BILINEAR
TORCHVISIONS: dict[str, tuple[float, Any]] = {
    "rotate": (-25.0, lambda x: functional.rotate(x, -25.0, interpolation=BILINEAR)),
    "translate_x": (3.7, lambda x: functional.affine(x, 0.0, [3, 0], 1.0, [0.0, 0.0], interpolation=BILINEAR)),
    "translate_y": (-3.7, lambda x: functional.affine(x, 0.0, [0, -3], 1.0, [0.0, 0.0], interpolation=BILINEAR)),
    "solarize": (0.6, lambda x: functional.solarize(x, 0.4)),
    "brightness": (0.7, lambda x: functional.adjust_brightness(x, 1.7)),
    "color": (-0.7, lambda x: functional.adjust_saturation(x, 0.3)),
    "contrast": (0.7, lambda x: functional.adjust_contrast(x, 1.7)),
    "sharpness": (-0.7, lambda x: functional.adjust_sharpness(x, 0.3)),
}


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_operations_are_those_of_torchvision(name: str) -> None:
    amount, expected = TORCHVISIONS[name]
    image = IMAGE.float() / 255
    torch.testing.assert_close(applied(name, image, amount), expected(image), atol=2e-4, rtol=0)


@pytest.mark.parametrize("dropped", [0, 2, 6])
def test_posterize_keeps_the_upper_bits(dropped: int) -> None:
    """Torchvision's of uint8; its own of floats divides by 256."""
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    changed = applied("posterize", every.float() / 255, dropped)
    assert torch.equal((changed * 255).round().byte(), functional.posterize(every, 8 - dropped))


def test_shear_moves_rows_in_proportion() -> None:
    images = torch.zeros(1, 1, 8, 8)
    images[..., 2] = 1  # a vertical line
    sheared = applied("shear_x", images, 0.5)[0, 0]
    assert [sheared[row].argmax().item() for row in (0, 2, 4, 6)] == [2, 3, 4, 5]
    assert torch.allclose(applied("shear_y", images.mT, 0.5)[0, 0], sheared.T, atol=1e-5)


def test_each_image_of_a_batch_stays_in_its_place() -> None:
    images = torch.rand(64, *SHAPE)
    augment = OneOf({"identity": 0.0, "solarize": 1.0}, magnitude=HIGHEST)
    torch.manual_seed(0)
    changed = augment(images)
    kept = (changed == images).all(dim=(1, 2, 3))
    assert 16 < kept.sum() < 48
    torch.testing.assert_close(changed[~kept], 1 - images[~kept])


def test_magnitude_is_of_all_images_and_the_sign_of_each() -> None:
    torch.manual_seed(0)
    changed = OneOf({"brightness": 0.3}, magnitude=10)(torch.full((64, *SHAPE), 0.5))
    factors, counts = (changed.mean(dim=(1, 2, 3)) / 0.5).mul(100).round().unique(return_counts=True)
    assert factors.tolist() == [90, 110] and counts.min() > 16


def test_magnitude_is_drawn_for_each_image_where_none_is_given() -> None:
    torch.manual_seed(0)
    changed = OneOf({"brightness": 0.3}, magnitude=None)(torch.full((2000, *SHAPE), 0.5))
    factors = (changed.mean(dim=(1, 2, 3)) / 0.5).mul(100).round()
    assert factors.unique().tolist() == list(range(70, 131))


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_every_operation_is_drawn(name: str) -> None:
    augment = build(name)
    drawn: set[int] = set()
    first: Any = next(part for part in augment.modules() if isinstance(part, OneOf))
    first.operations = [lambda images, _, n=n: drawn.add(n) or images for n in range(len(first.operations))]
    seeded(augment, *batch(500))
    assert drawn == set(range(len(NAMES)))


def test_num_ops_follow_each_other() -> None:
    images, labels = batch(4000, (1, 4, 4))
    kept = list[float]()
    for num_ops in (1, 2, 14):
        augmented, _ = seeded(build("rand_augment", (1, 4, 4), num_ops=num_ops, magnitude=HIGHEST), images, labels)
        kept.append((augmented == images).all(dim=(1, 2, 3)).float().mean().item())
    once, twice, often = kept
    assert once > 1 / 14 - 0.02 and twice == pytest.approx(once**2, abs=0.02) and often < 0.01


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    """What Lightning sets with trainer.precision=64-true and bf16-true."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


EXPECTED = {name: seeded(build(name), *batch())[0] for name in ("rand_augment", "trivial_augment")}


@pytest.mark.usefixtures("default_dtype")
@pytest.mark.parametrize("name", EXPECTED)
def test_the_default_type_changes_nothing(name: str) -> None:
    pixels = torch.linspace(0.1, 1, 3 * 8 * 8, dtype=torch.float32).view(SHAPE)
    augmented, _ = seeded(build(name), pixels.repeat(16, 1, 1, 1), torch.arange(16) % 4)
    assert augmented.dtype == torch.float32
    made_in_default_type = Version(kornia.__version__) < Version("0.9")  # its grids; Python 3.10 gets no other
    torch.testing.assert_close(augmented, EXPECTED[name], atol=0.02 if made_in_default_type else 0, rtol=0)


def test_channels_last_images_stay_so() -> None:
    images, labels = batch()
    expected, _ = seeded(build("rand_augment"), images, labels)
    augmented, _ = seeded(build("rand_augment"), images.to(memory_format=torch.channels_last), labels)
    assert augmented.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(augmented, expected)


DRAWN = (
    "augmentation=[shift,rand_augment,trivial_augment,cutmix]",
    "trainer.steps_per_execution=16",
    "checkpoint.every_n_steps=5",
)


def test_a_killed_run_resumes_bit_for_bit(killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "operations", DRAWN)
    result = killing.killed_and_resumed("operations", RunDir(tmp_path / "run"), SignalAt("batch", 23))
    assert differences(killing.reference("operations"), result) == []


def test_steps_per_execution_changes_nothing(run_train: RunTrain) -> None:
    one, many = (run_train(*SMALL, *DRAWN, f"trainer.steps_per_execution={k}") for k in (1, 7))
    assert_equal(weights(many), weights(one))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("num_ops", 0, "a whole number, 1 to 14"),
        ("num_ops", 15, "a whole number, 1 to 14"),
        ("num_ops", 1.5, "a whole number, 1 to 14"),
        ("magnitude", -1, "from 0 to 30"),
        ("magnitude", 31, "from 0 to 30"),
        ("magnitude", "high", "from 0 to 30"),
    ],
)
def test_values_out_of_range_are_refused_by_name(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        rand_augment(SHAPE, 4, **{key: value})
    assert str(error.value) == f"augmentation.rand_augment.{key}={value}: must be {allowed}"
