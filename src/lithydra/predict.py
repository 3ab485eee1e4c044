"""Predict the classes of image files with a run's checkpoint."""

import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lithydra import build
from lithydra.classifier import Classifier
from lithydra.data.images import ImageError, decode, find_images
from lithydra.errors import ConfigError, LithydraError
from lithydra.loading import load
from lithydra.run_dir import RunDir

log = logging.getLogger(__name__)

SHOWN_ROWS = 20
MARGIN = 0.3  # of the range of pixels: natural photos, of a mean near 0.5, never come near it


def predict(config: DictConfig) -> Path:
    """Write a CSV with the `top_k` classes and probabilities of each image, and show the first of them.

    Images that cannot be read are named and left out; the others are predicted all the same.

    Returns:
        The CSV file.

    Raises:
        LithydraError: After the good images were predicted: some could not be read.
        ConfigError: No such run or input.
    """
    module = load(config.run, config.checkpoint, build.device(config))
    names = module.record["data"]["class_names"]
    if not 1 <= config.top_k <= len(names):
        raise ConfigError(f"top_k={config.top_k}: the run has {len(names)} classes")
    paths = find_images(config.input)
    bad: list[str] = []
    doubtful: list[Path] = []
    rows: list[list[str]] = []
    batches = [paths[i : i + config.batch_size] for i in range(0, len(paths), config.batch_size)]
    console = Console(stderr=True)
    for batch in track(batches, "Predicting", console=console, disable=not console.is_terminal, transient=True):
        good, images = _decoded(module, batch, bad)
        if images is None:
            continue
        images = 255 - images if config.invert else images
        doubtful += _inverted(module, good, images)
        rows += _predict_batch(module, good, images, config.top_k)
    output = Path(config.output) if config.output else RunDir(Path(config.run)).path / "predictions.csv"
    ranks = range(1, config.top_k + 1)
    header = ["path", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))]
    try:
        with output.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    except OSError as error:
        raise ConfigError(f"output={output}: cannot be written: {error.strerror}") from error
    _show(rows, config.top_k, output)
    if doubtful:
        log.warning(
            "%d of %d images look inverted beside the training images (%s): invert=true swaps black and white",
            len(doubtful),
            len(rows),
            ", ".join(path.name for path in doubtful[:3]) + (", …" if doubtful[3:] else ""),
        )
    if bad:
        raise LithydraError(f"{len(bad)} of {len(paths)} images could not be read: " + "; ".join(bad))
    return output


def _decoded(module: Classifier, paths: list[Path], bad: list[str]) -> tuple[list[Path], Tensor | None]:
    """The paths that are images, and their pixels (B, C, H, W) uint8; what is wrong with the others goes to `bad`."""
    channels, height, width = module.record["data"]["image_shape"]
    images: list[np.ndarray] = []
    good: list[Path] = []
    for path in paths:
        try:
            images.append(decode(path, channels=channels, image_size=(height, width)))
            good.append(path)
        except ImageError as error:
            bad.append(str(error))
    if not images:
        return [], None
    pixels = torch.from_numpy(np.stack(images)).to(module.device)
    return good, pixels[:, None] if channels == 1 else pixels.permute(0, 3, 1, 2)


def _inverted(module: Classifier, paths: list[Path], images: Tensor) -> list[Path]:
    """The images whose brightness is far from the training images', but near it with black and white swapped."""
    usual: float | None = module.record["data"].get("mean_pixel")
    if usual is None:
        return []
    means = (images.float().mean(dim=(1, 2, 3)) / 255).tolist()
    return [p for p, mean in zip(paths, means, strict=True) if abs(mean - usual) > abs(1 - mean - usual) + MARGIN]


def _predict_batch(module: Classifier, paths: list[Path], images: Tensor, top_k: int) -> Iterator[list[str]]:
    names = module.record["data"]["class_names"]
    with torch.inference_mode():
        top = module.probabilities(module(images)).topk(top_k)
    for path, probabilities, classes in zip(paths, top.values.tolist(), top.indices.tolist(), strict=True):
        pairs = zip(classes, probabilities, strict=True)
        yield [str(path), *(text for label, p in pairs for text in (names[label], f"{p:.4f}"))]


def _show(rows: list[list[str]], top_k: int, output: Path) -> None:
    table = Table("image", *(f"{rank}." for rank in range(1, top_k + 1)))
    for path, *pairs in rows[:SHOWN_ROWS]:
        guesses = zip(pairs[::2], pairs[1::2], strict=True)
        table.add_row(Path(path).name, *(f"{name}  {float(p):.1%}" for name, p in guesses))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    more = f"; the first {SHOWN_ROWS} are shown" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} images{more}. All: {output}", soft_wrap=True)
