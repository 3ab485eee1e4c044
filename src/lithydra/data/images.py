"""Image files to uint8 arrays."""

import glob
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from lithydra.errors import ConfigError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class ImageError(ConfigError):
    """A file that is no image, or one that cannot be used. The message opens with its path."""

    def __init__(self, message: str) -> None:
        # torch's DataLoader raises a worker's error again with the whole traceback for a message: keep its last line.
        super().__init__(message.rpartition("ImageError: ")[2].strip())


def decode(path: Path, *, channels: int, image_size: int | tuple[int, int] | None) -> np.ndarray:
    """The image as uint8: (H, W) for one channel, (H, W, 3) for three.

    Upright by its EXIF orientation; of an animation the first frame. Where `image_size` (pixels: a side, or height and
    width) is given, the image is scaled to cover it and its middle is kept.

    Raises:
        ImageError: no file, no image, a damaged one, or one of a pixel type whose range is not known.
    """
    file_size(path)
    try:
        with Image.open(path) as file:
            image = _eight_bit(ImageOps.exif_transpose(file)).convert("L" if channels == 1 else "RGB")
            return np.array(image if image_size is None else _fitted(image, image_size))
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        raise ImageError(f"{path}: {_reason(error)}") from error


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images that are decoded when they are asked for: ((C, H, W) uint8, label).

    Attributes:
        labels: (N,) int64.
        image_size: side in pixels.
    """

    def __init__(self, paths: Sequence[Path], labels: Tensor, channels: int, image_size: int) -> None:
        self.paths, self.labels, self.channels, self.image_size = paths, labels, channels, image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(decode(self.paths[index], channels=self.channels, image_size=self.image_size))
        return image[None] if self.channels == 1 else image.permute(2, 0, 1), int(self.labels[index])


def file_size(path: Path) -> int:
    """Bytes of an image file.

    Raises:
        ImageError: there is none, or it is of a kind that may never come to an end: a pipe, a socket, a device.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise ImageError(f"{path}: {_reason(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path}: not a regular file")
    return found.st_size


def in_memory(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def decode_all(
    paths: Sequence[Path],
    *,
    channels: int,
    image_size: int | None,
    workers: int | None = None,
    allocate: Callable[[tuple[int, ...]], np.ndarray] = in_memory,
) -> np.ndarray:
    """All images as one uint8 array (N, H, W) or (N, H, W, 3), with a progress bar in a terminal.

    Args:
        paths: at least one; of one size where `image_size` is None.
        channels: 1 or 3.
        image_size: side in pixels, as in `decode`.
        workers: threads; None for a number that fits the machine.
        allocate: makes the array, of a shape.

    Raises:
        ImageError: names the first five of all the images that cannot be used.
    """
    from rich.console import Console
    from rich.progress import track

    def attempt(path: Path) -> np.ndarray | ImageError:
        try:
            return decode(path, channels=channels, image_size=image_size)
        except ImageError as error:
            return error

    console = Console(stderr=True)
    images: np.ndarray | None = None
    bad: list[str] = []
    with ThreadPoolExecutor(workers) as pool:
        results = track(
            pool.map(attempt, paths), "Decoding images", len(paths), console=console, disable=not console.is_terminal
        )
        for i, result in enumerate(results):
            if isinstance(result, ImageError):
                bad.append(str(result))
                continue
            if images is None:
                images = allocate((len(paths), *result.shape))
            if result.shape != images.shape[1:]:
                bad.append(f"{paths[i]}: shape {result.shape}, the first image has {images.shape[1:]}")
                continue
            images[i] = result
    if bad or images is None:
        more = "; …" if len(bad) > 5 else ""
        raise ImageError(f"{len(bad)} of {len(paths)} images cannot be used: {'; '.join(bad[:5])}{more}")
    return images


def resize_all(images: np.ndarray, image_size: int) -> np.ndarray:
    """(N, H, W, C) uint8 to (N, image_size, image_size, C), as `decode` makes each of them."""
    height, width = images.shape[1:3]
    if height == width:
        return _resized_squares(images, image_size)
    grey = images.shape[3] == 1
    resized = np.empty((len(images), image_size, image_size, images.shape[3]), np.uint8)
    for target, image in zip(resized, images, strict=True):
        fitted = np.asarray(_fitted(Image.fromarray(image[..., 0] if grey else image), image_size))
        target[:] = fitted[..., None] if grey else fitted
    return resized


def _resized_squares(images: np.ndarray, side: int) -> np.ndarray:
    """What Pillow gives, in a fifth of the time; in parts to bound the memory."""
    from torchvision.transforms.v2.functional import resize

    parts = [
        resize(part.permute(0, 3, 1, 2), [side, side], antialias=True).permute(0, 2, 3, 1)
        for part in torch.from_numpy(images).split(1000)
    ]
    return torch.cat(parts).contiguous().numpy()


def _fitted(image: Image.Image, image_size: int | tuple[int, int]) -> Image.Image:
    """Scaled to cover `image_size`, as in `decode`, and cut to its middle. An image of that size is left as it is."""
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def find_images(pattern: str | Path) -> list[Path]:
    """The image files that a path names, sorted: a file, a folder with all below it, or a glob (`**` for folders).

    In a folder, files count by their extension, and hidden ones do not. A file or a glob is taken at its word.

    Raises:
        ConfigError: there is none, or one whose name cannot be written to a table or a page.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names if _is_image(name)]
        if not found:
            raise ConfigError(f"{pattern}: no images in this folder ({' '.join(EXTENSIONS)})")
    else:
        found = [match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file()]
        if not found:
            raise ConfigError(f"{pattern}: no such file or folder, and as a glob it matches no file")
    if foreign := [name for name in map(os.fsencode, found) if not _is_utf8(name)]:
        shown = foreign[0].decode(errors="backslashreplace")
        raise ConfigError(f"{shown}: the name is not UTF-8 ({len(foreign)} of {len(found)}); rename it")
    return sorted(found)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, without transparency."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255; convert("L") would clip
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}), whose range is not known: save it with 8 or 16 bits")
    if image.has_transparency_data:
        # On white: drawings and logos with transparency are made for light pages, and dark strokes vanish on black.
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _reason(error: Exception) -> str:
    """Why an image cannot be decoded, in one line that does not repeat the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__
