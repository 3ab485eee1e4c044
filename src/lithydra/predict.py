"""Predict the classes of image files with a run's checkpoint."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lithydra.classifier import Classifier
from lithydra.data.images import ImageError, decode, find_images
from lithydra.errors import ConfigError, LithydraError
from lithydra.loading import load
from lithydra.run_dir import RunDir

SHOWN_ROWS = 20


def predict(config: DictConfig) -> Path:
    """Write a CSV with the `top_k` classes and probabilities of each image, and show the first of them.

    Images that cannot be read are named and left out; the others are predicted all the same.

    Returns:
        The CSV file.

    Raises:
        LithydraError: After the good images were predicted: some could not be read.
        ConfigError: No such run or input.
    """
    module = load(config.run, config.checkpoint, best_device(config.trainer.accelerator))
    names = module.record["data"]["class_names"]
    if not 1 <= config.top_k <= len(names):
        raise ConfigError(f"top_k={config.top_k}: the run has {len(names)} classes")
    paths = find_images(config.input)
    bad: list[str] = []
    rows: list[list[str]] = []
    batches = [paths[i : i + config.batch_size] for i in range(0, len(paths), config.batch_size)]
    console = Console(stderr=True)
    for batch in track(batches, "Predicting", console=console, disable=not console.is_terminal, transient=True):
        rows += _predict_batch(module, batch, names, config.top_k, bad)
    output = Path(config.output) if config.output else RunDir(Path(config.run)).path / "predictions.csv"
    ranks = range(1, config.top_k + 1)
    header = ["path", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))]
    with output.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    _show(rows, config.top_k, output)
    if bad:
        raise LithydraError(f"{len(bad)} of {len(paths)} images could not be read: " + "; ".join(bad))
    return output


def _predict_batch(
    module: Classifier, paths: list[Path], names: list[str], top_k: int, bad: list[str]
) -> Iterator[list[str]]:
    channels, size, _ = module.record["data"]["image_shape"]
    images: list[np.ndarray] = []
    good: list[Path] = []
    for path in paths:
        try:
            images.append(decode(path, channels=channels, image_size=size))
            good.append(path)
        except ImageError as error:
            bad.append(str(error))
    if not images:
        return
    pixels = torch.from_numpy(np.stack(images)).to(module.device)
    pixels = pixels[:, None] if channels == 1 else pixels.permute(0, 3, 1, 2)
    with torch.inference_mode():
        top = module.probabilities(module(pixels)).topk(top_k)
    for path, probabilities, classes in zip(good, top.values.tolist(), top.indices.tolist(), strict=True):
        pairs = zip(classes, probabilities, strict=True)
        yield [str(path), *(text for label, p in pairs for text in (names[label], f"{p:.4f}"))]


def best_device(accelerator: str) -> str:
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "cuda"
    return "cpu"


def _show(rows: list[list[str]], top_k: int, output: Path) -> None:
    table = Table("image", *(f"{rank}." for rank in range(1, top_k + 1)))
    for path, *pairs in rows[:SHOWN_ROWS]:
        guesses = zip(pairs[::2], pairs[1::2], strict=True)
        table.add_row(Path(path).name, *(f"{name}  {float(p):.1%}" for name, p in guesses))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    more = f"; the first {SHOWN_ROWS} are shown" if len(rows) > SHOWN_ROWS else ""
    console.print(f"{len(rows)} images{more}. All: {output}", soft_wrap=True)
