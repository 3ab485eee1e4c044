"""Predict the classes of images with a run's checkpoint."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
NPZ_KEYS = ("x_test", "images", "x")


class Prediction(NamedTuple):
    """The most probable classes of an image and their probabilities, the first the most probable."""

    path: str
    image: np.ndarray  # (H, W, C) uint8, as the net sees it
    classes: list[str]
    probabilities: list[float]


def predict(config: DictConfig) -> Path:
    """Write the `top_k` classes and probabilities of each image, show the first of them, and draw a contact sheet.

    Images that cannot be read are named and left out; the others are predicted all the same.

    Returns:
        The CSV or JSON file.

    Raises:
        LithydraError: After the good images were predicted: some could not be read.
        ConfigError: No such run or input.
    """
    module = load(config.run, config.checkpoint, best_device(config.trainer.accelerator))
    names = module.record["data"]["class_names"]
    if not 1 <= config.top_k <= len(names):
        raise ConfigError(f"top_k={config.top_k}: the run has {len(names)} classes")
    sources = read_npz(config.input, module) if str(config.input).endswith(".npz") else find_images(config.input)
    bad: list[str] = []
    found: list[Prediction] = []
    batches = [sources[i : i + config.batch_size] for i in range(0, len(sources), config.batch_size)]
    console = Console(stderr=True)
    for batch in track(batches, "Predicting", console=console, disable=not console.is_terminal, transient=True):
        found += _predict_batch(module, batch, names, config.top_k, bad)
    default = RunDir(Path(config.run)).path / f"predictions.{config.format}"
    output = Path(config.output) if config.output else default
    WRITERS[config.format](output, found)
    _show(found, output)
    if config.contact_sheet and found:
        print(f"Contact sheet: {contact_sheet(found[: config.contact_sheet], output.with_suffix('.png'))}")
    if bad:
        raise LithydraError(f"{len(bad)} of {len(sources)} images could not be read: " + "; ".join(bad))
    return output


def read_npz(path: str, module: Classifier) -> list[tuple[str, np.ndarray]]:
    """Names and images (H, W, C) uint8 of a file's array `x_test`, `images` or `x`, or of its only array.

    Raises:
        ConfigError: There is no such file or array, or its images are not of the run's shape.
    """
    try:
        with np.load(path) as file:
            key = next((key for key in NPZ_KEYS if key in file), file.files[0] if len(file.files) == 1 else None)
            if key is None:
                raise ConfigError(f"input={path}: has {', '.join(file.files)}, and none of {', '.join(NPZ_KEYS)}")
            images = file[key]
    except (OSError, ValueError) as error:
        raise ConfigError(f"input={path}: not an npz file that can be read: {error}") from error
    if images.ndim == 3:
        images = images[..., None]
    channels, height, width = module.record["data"]["image_shape"]
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        given = "x".join(map(str, images.shape[1:]))
        needed = f"{height}x{width}x{channels} uint8"
        raise ConfigError(f"input={path}: {key} holds images {given} {images.dtype}, and the run takes {needed}")
    return [(f"{path}[{number}]", image) for number, image in enumerate(images)]


def _predict_batch(
    module: Classifier, sources: list[Path] | list[tuple[str, np.ndarray]], names: list[str], top_k: int, bad: list[str]
) -> Iterator[Prediction]:
    channels, size, _ = module.record["data"]["image_shape"]
    good: list[tuple[str, np.ndarray]] = []
    for source in sources:
        if isinstance(source, tuple):
            good.append(source)
            continue
        try:
            image = decode(source, channels=channels, image_size=size)
            good.append((str(source), image[..., None] if channels == 1 else image))
        except ImageError as error:
            bad.append(str(error))
    if not good:
        return
    pixels = torch.from_numpy(np.stack([image for _, image in good])).to(module.device).permute(0, 3, 1, 2)
    with torch.inference_mode():
        top = module.probabilities(module(pixels)).topk(top_k)
    rows = zip(good, top.values.tolist(), top.indices.tolist(), strict=True)
    for (path, image), probabilities, classes in rows:
        yield Prediction(path, image, [names[label] for label in classes], probabilities)


def best_device(accelerator: str) -> str:
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return "cuda"
    return "cpu"


def _write_csv(output: Path, found: list[Prediction]) -> None:
    ranks = range(1, 1 + len(found[0].classes) if found else 1)
    with output.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))])
        for p in found:
            pairs = zip(p.classes, p.probabilities, strict=True)
            writer.writerow([p.path, *(text for name, value in pairs for text in (name, f"{value:.4f}"))])


def _write_json(output: Path, found: list[Prediction]) -> None:
    rows = [
        {
            "path": p.path,
            "predictions": [
                {"class": name, "probability": value} for name, value in zip(p.classes, p.probabilities, strict=True)
            ],
        }
        for p in found
    ]
    output.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


WRITERS = {"csv": _write_csv, "json": _write_json}


def contact_sheet(found: list[Prediction], output: Path) -> Path:
    """The images with their predicted class, in one picture."""
    from lithydra import plots

    items = [plots.Guess(p.image, p.classes[0], p.probabilities[0], "") for p in found]
    plots.save(plots.guesses(items, columns=min(8, max(4, len(items)))), output)
    return output


def _show(found: list[Prediction], output: Path) -> None:
    ranks = len(found[0].classes) if found else 1
    table = Table("image", *(f"{rank}." for rank in range(1, ranks + 1)))
    for p in found[:SHOWN_ROWS]:
        guesses = zip(p.classes, p.probabilities, strict=True)
        table.add_row(Path(p.path).name, *(f"{name}  {value:.1%}" for name, value in guesses))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    more = f"; the first {SHOWN_ROWS} are shown" if len(found) > SHOWN_ROWS else ""
    console.print(f"{len(found)} images{more}. All: {output}", soft_wrap=True)
