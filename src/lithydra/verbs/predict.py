"""Predict the classes of images with a run's checkpoint."""

import csv
import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from lithydra.checks.output import distinct_names, output_of, writing
from lithydra.data.images import ImageError, decode, find_images
from lithydra.data.prepare import refuse_zip_bomb
from lithydra.errors import ConfigError, LithydraError
from lithydra.training.classifier import Classifier
from lithydra.training.loading import load_classifier
from lithydra.verbs.device import device

log = logging.getLogger(__name__)

SHOWN_ROWS = 20
TOP_K = 3  # classes named for each image, where the run has as many
MARGIN = 0.3  # of the range of pixels: natural photos, of a mean near 0.5, never come near it
NPZ_KEYS = ("x_test", "images", "x")

Source = Path | tuple[str, np.ndarray]  # an image file, or a name and an image (H, W, C) uint8


class Prediction(NamedTuple):
    """The most probable classes of an image and their probabilities, the first the most probable."""

    path: str
    image: np.ndarray  # (H, W, C) uint8, as the net sees it
    classes: list[str]
    probabilities: list[float]


def predict(config: DictConfig) -> dict[str, Any]:
    """Write the `top_k` classes and probabilities of each image, show the first of them, and draw a contact sheet.

    Images that cannot be read are named and left out; the others are predicted all the same.

    Returns:
        The CSV or JSON file as `output`, the contact sheet as `picture`, and the number of `images`.

    Raises:
        LithydraError: After the good images were predicted: some could not be read.
        ConfigError: No such run or input.
    """
    how = {"trust": config.trust, "weights": config.weights, "tta": config.tta}
    module = load_classifier(config.run, config.checkpoint, device(config), **how)
    num_classes = len(module.class_names)
    top_k = min(TOP_K, num_classes) if config.top_k is None else config.top_k
    if not 1 <= top_k <= num_classes:
        raise ConfigError(f"top_k={top_k}: the run has {num_classes} classes")
    sources = read_npz(config.input, module) if str(config.input).endswith(".npz") else find_images(config.input)
    bad: list[str] = []
    doubtful: list[str] = []
    found: list[Prediction] = []
    batches = [sources[i : i + config.batch_size] for i in range(0, len(sources), config.batch_size)]
    console = Console(stderr=True)
    for batch in track(batches, "Predicting", console=console, disable=not console.is_terminal, transient=True):
        good, images = _decoded(module, batch, bad)
        if images is None:
            continue
        images = 255 - images if config.invert else images
        doubtful += _inverted(module, good, images)
        found += _predict_batch(module, good, images, top_k)
    output = output_of("predict", config)
    sheet = _write(config, output, found, top_k)
    _show(found, top_k, output)
    if sheet:
        print(f"Contact sheet: {sheet}")
    _warn_of_inverted(doubtful, len(found))
    if bad:
        raise LithydraError(f"{len(bad)} of {len(sources)} images could not be read: " + "; ".join(bad))
    return {"run": config.run, "images": len(found), "output": output, "picture": sheet}


def read_npz(pattern: str, module: Classifier) -> list[tuple[str, np.ndarray]]:
    """Names and images (H, W, C) uint8 of a file's array `x_test`, `images` or `x`, or of its only array.

    Raises:
        ConfigError: There is no such file or array, it is a zip bomb, or its images are not of the run's shape.
    """
    path = Path(pattern).expanduser()
    try:
        with path.open("rb") as opened, np.load(opened) as file:  # np.load leaves a damaged file open
            key = next((key for key in NPZ_KEYS if key in file), file.files[0] if len(file.files) == 1 else None)
            if key is None:
                raise ConfigError(f"input={path}: has {', '.join(file.files)}, and none of {', '.join(NPZ_KEYS)}")
            refuse_zip_bomb(file.zip, [key], f"input={path}")
            images = file[key]
    except ConfigError:
        raise
    except Exception as error:  # what a flipped bit makes zipfile and numpy raise can be nearly anything
        raise ConfigError(f"input={path}: not an npz file that can be read: {error}") from error
    if images.ndim == 3:
        images = images[..., None]
    channels, height, width = module.image_shape
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels):
        given = "x".join(map(str, images.shape[1:]))
        needed = f"{height}x{width}x{channels} uint8"
        raise ConfigError(f"input={path}: {key} holds images {given} {images.dtype}, and the run takes {needed}")
    if not len(images):
        raise ConfigError(f"input={path}: {key} holds no images")
    return [(f"{path}[{number}]", image) for number, image in enumerate(images)]


def _decoded(module: Classifier, sources: Sequence[Source], bad: list[str]) -> tuple[list[str], Tensor | None]:
    """Names and pixels (B, C, H, W) uint8 of the sources that are images; errors of the rest go to `bad`."""
    channels, height, width = module.image_shape
    images: list[np.ndarray] = []
    good: list[str] = []
    for source in sources:
        if isinstance(source, tuple):
            name, image = source
        else:
            name = str(source)
            try:
                image = decode(source, channels=channels, image_size=(height, width))
            except ImageError as error:
                bad.append(str(error))
                continue
        images.append(image.reshape(height, width, channels))
        good.append(name)
    if not images:
        return [], None
    return good, torch.from_numpy(np.stack(images)).to(module.device).permute(0, 3, 1, 2)


def _inverted(module: Classifier, paths: list[str], images: Tensor) -> list[str]:
    """The images whose brightness is far from the training images', but near it with black and white swapped."""
    usual: float | None = module.record["data"].get("mean_pixel")
    if usual is None:
        return []
    means = (images.float().mean(dim=(1, 2, 3)) / 255).tolist()
    return [p for p, mean in zip(paths, means, strict=True) if abs(mean - usual) > abs(1 - mean - usual) + MARGIN]


def _predict_batch(module: Classifier, paths: list[str], images: Tensor, top_k: int) -> Iterator[Prediction]:
    with torch.inference_mode():
        top = module.probabilities(module(images)).topk(top_k)
    shown = images.permute(0, 2, 3, 1).cpu().numpy()
    for path, image, probabilities, classes in zip(
        paths, shown, top.values.tolist(), top.indices.tolist(), strict=True
    ):
        yield Prediction(path, image, [module.class_names[label] for label in classes], probabilities)


def _write(config: DictConfig, output: Path, found: list[Prediction], top_k: int) -> Path | None:
    """Write the predictions, and the contact sheet beside them, whose path is returned."""
    text = _as_json(found) if config.format == "json" else _as_csv(found, top_k)
    with writing(config, output):
        output.write_text(text, encoding="utf-8", newline="")
    if not (config.contact_sheet and found):
        return None
    sheet = output.with_suffix(".png")
    with writing(config, sheet):
        return contact_sheet(found[: config.contact_sheet], sheet)


def _as_csv(found: list[Prediction], top_k: int) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    ranks = range(1, top_k + 1)
    writer.writerow(["path", *(f"{column}_{rank}" for rank in ranks for column in ("class", "probability"))])
    for p in found:
        pairs = zip(p.classes, p.probabilities, strict=True)
        writer.writerow([p.path, *(cell for name, value in pairs for cell in (name, f"{value:.4f}"))])
    return text.getvalue()


def _as_json(found: list[Prediction]) -> str:
    rows = [
        {
            "path": p.path,
            "predictions": [
                {"class": name, "probability": value} for name, value in zip(p.classes, p.probabilities, strict=True)
            ],
        }
        for p in found
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def contact_sheet(found: list[Prediction], output: Path) -> Path:
    """The images with their predicted class, in one picture."""
    from lithydra.run import plots

    items = [plots.Guess(p.image, p.classes[0], p.probabilities[0], "") for p in found]
    plots.save(plots.guesses(items, columns=min(8, max(4, len(items)))), output)
    return output


def _show(found: list[Prediction], top_k: int, output: Path) -> None:
    table = Table("image", *(f"{rank}." for rank in range(1, top_k + 1)))
    names = distinct_names([Path(p.path) for p in found[:SHOWN_ROWS]])
    for name, p in zip(names, found, strict=False):
        guesses = zip(p.classes, p.probabilities, strict=True)
        table.add_row(name, *(f"{name}  {value:.1%}" for name, value in guesses))
    console = Console(file=sys.stdout, highlight=False, markup=False)
    console.print(table)
    more = f"; the first {SHOWN_ROWS} are shown" if len(found) > SHOWN_ROWS else ""
    console.print(f"{len(found)} images{more}. All: {output}", soft_wrap=True)


def _warn_of_inverted(doubtful: list[str], num_images: int) -> None:
    if doubtful:
        log.warning(
            "%d of %d images look inverted beside the training images (%s): invert=true swaps black and white",
            len(doubtful),
            num_images,
            ", ".join(distinct_names([Path(path) for path in doubtful[:3]])) + (", …" if doubtful[3:] else ""),
        )
