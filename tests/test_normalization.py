import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from lithydra import normalization
from lithydra.errors import ConfigError
from lithydra.normalization import Normalization, min_max, none, pixel_counts, tiny, z_score

CONF = Path(__file__).parents[1] / "conf" / "normalization"


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(10, 201, (50, 3, 6, 5), dtype=torch.uint8, generator=generator)
    images[:, 1] //= 2  # channels differ
    images[0, 0, 0, :2] = torch.tensor([5, 250], dtype=torch.uint8)
    return images


def test_none_keeps_raw_pixels(images: Tensor) -> None:
    assert torch.equal(none(images)(images), images.float())


def test_min_max_spans_0_to_1_on_the_training_images(images: Tensor) -> None:
    normalized = min_max(images)(images)
    torch.testing.assert_close(normalized, (images.float() - 5) / 245)
    assert (normalized.min(), normalized.max()) == (0, pytest.approx(1))


def test_z_score_has_mean_0_and_std_1_in_each_channel(images: Tensor) -> None:
    normalize = z_score(images)
    pixels = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(normalize.mean.flatten(), pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(normalize.std.flatten(), pixels.std((0, 2, 3)), rtol=1e-6)
    normalized = normalize(images).double()
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_converted_or_loaded_it_is_the_same(images: Tensor, dtype: torch.dtype) -> None:
    """A run converts its module; one that is resumed has loaded mean and std in the type that they were saved in."""
    converted = z_score(images).to(dtype)
    loaded, converted_later = none(images).to(dtype), none(images)
    loaded.load_state_dict(converted.state_dict())
    converted_later.load_state_dict(converted.state_dict())
    for other in (loaded, converted_later.to(dtype)):
        assert torch.equal(other(images), converted(images)) and other(images).dtype == dtype
        assert torch.equal(other(images / 255), converted(images / 255))


def test_z_score_takes_given_constants(images: Tensor) -> None:
    normalize = z_score(images, mean=[0.5, 0.4, 0.3], std=[0.5, 0.25, 0.2])
    expected = (images.numpy() / 255 - np.reshape([0.5, 0.4, 0.3], (3, 1, 1))) / np.reshape([0.5, 0.25, 0.2], (3, 1, 1))
    np.testing.assert_allclose(normalize(images), expected, atol=1e-6)


def test_z_score_computes_what_is_not_given(images: Tensor) -> None:
    normalize = z_score(images, mean=[0.0, 0.0, 0.0])
    assert not normalize.mean.any()
    assert torch.equal(normalize.std, z_score(images).std)


def test_tiny_divides_by_255_and_10000(images: Tensor) -> None:
    torch.testing.assert_close(tiny(images)(images), images / 2_550_000, atol=0, rtol=1e-6)


def test_statistics_in_chunks_are_exact(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pixel_counts(images)
    monkeypatch.setattr(normalization, "CHUNK_IMAGES", 7)
    assert torch.equal(pixel_counts(images), whole)
    assert whole[1, 50] == (images[:, 1] == 50).sum()
    assert whole.sum() == images.numel()


@pytest.mark.parametrize("name", ["none", "min_max", "z_score", "tiny"])
def test_uint8_and_float_images_agree(name: str, images: Tensor) -> None:
    normalize = getattr(normalization, name)(images)
    before = images.clone()
    from_uint8, from_float = normalize(images), normalize(images.float() / 255)
    assert from_uint8.dtype == from_float.dtype == torch.float32
    torch.testing.assert_close(from_float, from_uint8, rtol=1e-5, atol=1e-6)
    assert torch.equal(images, before)


def test_float_images_are_left_as_they_are(images: Tensor) -> None:
    pixels = images.float() / 255
    before = pixels.clone()
    z_score(images)(pixels)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_channels_last_is_kept(dtype: torch.dtype, images: Tensor) -> None:
    normalize = z_score(images)
    channels_last = images.to(dtype=dtype, memory_format=torch.channels_last)
    output = normalize(channels_last)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(output, normalize(channels_last.contiguous()))


@pytest.mark.parametrize("assign", [False, True])
def test_constants_follow_a_loaded_state(assign: bool, images: Tensor) -> None:
    saved = z_score(images)
    restored = Normalization([0.0] * 3, [1.0] * 3)
    holder = copy.deepcopy(torch.nn.Sequential(restored))  # as a part of the classifier
    holder.load_state_dict({f"0.{key}": value for key, value in saved.state_dict().items()}, assign=assign)
    assert set(saved.state_dict()) == {"mean", "std"}
    assert torch.equal(holder(images), saved(images))


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize("value", [[0.5], [0.5] * 4, 0.5, [0.5, 0.5, None], [0.5, 0.5, float("nan")]])
def test_z_score_refuses_what_is_not_one_number_a_channel(key: str, value: Any, images: Tensor) -> None:
    with pytest.raises(
        ConfigError, match=rf"^normalization\.{key}=.*: must be a list of numbers, one a channel \(3\)$"
    ):
        z_score(images, **{key: value})


def test_z_score_refuses_a_std_of_0(images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"^normalization\.std=\[1\.0, 0\.0, 1\.0\]: every number must be above 0$"):
        z_score(images, std=[1, 0, 1])


def test_z_score_refuses_a_constant_channel(images: Tensor) -> None:
    images[:, 2] = 77
    with pytest.raises(
        ConfigError, match=r"z_score: channel 2 of the training images is constant; give normaliz.*std$"
    ):
        z_score(images)
    assert z_score(images, std=[1.0, 1.0, 1.0]).mean[2].item() == pytest.approx(77 / 255)


def test_min_max_refuses_constant_images() -> None:
    with pytest.raises(ConfigError, match=r"min_max: the training images are constant \(every pixel is 9\)$"):
        min_max(torch.full((4, 1, 8, 8), 9, dtype=torch.uint8))


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_builds_the_function_of_its_name(path: Path, images: Tensor) -> None:
    built = instantiate(OmegaConf.load(path))(images)
    assert torch.equal(built(images), getattr(normalization, path.stem)(images)(images))


def test_constants_from_the_command_line_are_taken(images: Tensor) -> None:
    config = OmegaConf.merge(OmegaConf.load(CONF / "z_score.yaml"), {"mean": [0.5] * 3, "std": [0.5] * 3})
    normalize = instantiate(config)(images)
    torch.testing.assert_close(normalize(images), images / 127.5 - 1, atol=1e-6, rtol=0)
