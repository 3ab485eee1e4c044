import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lithydra.data.images import ImageError, decode, decode_all, find_images
from lithydra.errors import ConfigError

NOISE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def save(image: Image.Image | np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "A.PNG"])
def test_color_image_keeps_its_pixels(tmp_path: Path, name: str) -> None:
    image = decode(save(NOISE, tmp_path / name), channels=3, image_size=None)
    assert image.dtype == np.uint8 and image.flags.writeable
    assert np.array_equal(image, NOISE)


def test_grey_image_is_repeated_for_three_channels(tmp_path: Path) -> None:
    path = save(NOISE[..., 0], tmp_path / "a.png")
    assert np.array_equal(decode(path, channels=1, image_size=None), NOISE[..., 0])
    assert np.array_equal(decode(path, channels=3, image_size=None), np.repeat(NOISE[..., :1], 3, axis=2))


def test_color_image_becomes_grey_by_its_brightness(tmp_path: Path) -> None:
    path = save(np.full((2, 2, 3), (0, 255, 0), np.uint8), tmp_path / "a.png")
    assert decode(path, channels=1, image_size=None).tolist() == [[150, 150]] * 2  # .587 * 255, ITU-R 601


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    values = np.linspace(0, 65535, 120).astype(np.uint16).reshape(12, 10)
    image = decode(save(values, tmp_path / name), channels=1, image_size=None)
    assert np.array_equal(image, np.rint(values / 257))


def test_palette_becomes_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode(save(image, tmp_path / "a.png"), channels=3, image_size=None).tolist() == [
        [[10, 20, 30], [200, 100, 50]]
    ]
    path = save(image, tmp_path / "b.png", transparency=1)
    assert decode(path, channels=3, image_size=None).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 127), (0, 0, 0, 255)])
    path = save(image.convert(mode), tmp_path / "a.png")
    assert decode(path, channels=1, image_size=None).tolist() == [[255, 128, 0]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    path = save(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), tmp_path / "a.tif")
    assert decode(path, channels=3, image_size=None).tolist() == [[[255, 0, 0]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    path = save(NOISE, tmp_path / "a.png", exif=exif)
    assert np.array_equal(decode(path, channels=3, image_size=None), np.rot90(NOISE, -1))


def test_middle_square_is_kept(tmp_path: Path) -> None:
    grey = np.zeros((10, 30), np.uint8)
    grey[:, 10:20] = 100
    path = save(grey, tmp_path / "a.png")
    assert np.array_equal(decode(path, channels=1, image_size=10), np.full((10, 10), 100))
    assert np.array_equal(decode(path, channels=3, image_size=4)[:, 1:3], np.full((4, 2, 3), 100))


def test_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 2), value) for value in (40, 200)]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(path, channels=1, image_size=None).tolist() == [[40, 40]] * 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"some text", "not an image"), (b"", "not an image"), (None, "No such file or directory")],
)
def test_what_is_no_image_is_refused_by_path(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        decode(path, channels=3, image_size=None)
    assert str(caught.value) == f"{path}: {reason}"


def test_a_pipe_is_refused_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: not a regular file"):
        decode(tmp_path / "a.png", channels=3, image_size=None)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.webp", "a.tif", "a.gif"])
def test_truncated_image_is_refused(tmp_path: Path, name: str) -> None:
    path = save(NOISE, tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"{name}: ."):
        decode(path, channels=3, image_size=None)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, dtype: type) -> None:
    path = save(NOISE[..., 0].astype(dtype), tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"32-bit pixels \(mode [IF]\), whose range is not known"):
        decode(path, channels=1, image_size=None)


@pytest.mark.parametrize(("channels", "shape"), [(1, (3, 8, 8)), (3, (3, 8, 8, 3))])
def test_decode_all_keeps_the_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], channels: int, shape: tuple[int, ...]
) -> None:
    paths = [save(np.full((9, 9), value, np.uint8), tmp_path / f"{value}.png") for value in (30, 10, 20)]
    images = decode_all(paths, channels=channels, image_size=8)
    assert images.dtype == np.uint8 and images.shape == shape
    assert images.reshape(3, -1).mean(1).tolist() == [30, 10, 20]
    assert capsys.readouterr() == ("", "")  # the progress bar is for terminals


def test_decode_all_collects_what_is_bad(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path in paths:
        path.write_text("text")
    save(NOISE, paths[4])
    with pytest.raises(ImageError) as caught:
        decode_all(paths, channels=3, image_size=8)
    named = "; ".join(f"{paths[i]}: not an image" for i in (0, 1, 2, 3, 5))
    assert str(caught.value) == f"8 of 9 images cannot be used: {named}; …"


def test_decode_all_wants_one_size(tmp_path: Path) -> None:
    paths = [save(NOISE, tmp_path / "a.png"), save(NOISE[:5], tmp_path / "b.png")]
    with pytest.raises(ImageError, match=r"1 of 2 .*b\.png: shape \(5, 10, 3\), the first image has \(12, 10, 3\)"):
        decode_all(paths, channels=3, image_size=None)


def test_find_images_takes_files_folders_and_globs(tmp_path: Path) -> None:
    names = ("b.png", "a.JPG", "below/c.gif", "notes.txt", "._b.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    b, a, c, notes, _ = (tmp_path / name for name in names)
    assert find_images(b) == [b]
    assert find_images(notes) == [notes]
    assert find_images(tmp_path) == [a, b, c]
    assert find_images(f"{tmp_path}/*.png") == [b]
    assert find_images(f"{tmp_path}/**/*.gif") == [c]


def test_find_images_refuses_to_find_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no images in this folder \(\.png \.jpg"):
        find_images(tmp_path)
    with pytest.raises(ConfigError, match=r"\*\.png: no such file or folder, and as a glob it matches no file"):
        find_images(f"{tmp_path}/*.png")
