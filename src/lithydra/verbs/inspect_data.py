"""Show what a data set holds, and what normalization and augmentation make of it, before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lithydra.augmentations.chain import Chain
from lithydra.callbacks.look_inside import MAX_CLASSES, SAMPLES_PER_CLASS, as_image, first_of_each_class
from lithydra.data.base import ImageDataModule
from lithydra.data.splits import Split, TensorSplit
from lithydra.normalization import Normalization, pixel_counts
from lithydra.run import plots
from lithydra.run.config import several
from lithydra.training import build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 1000


def inspect_data(config: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """Print the facts of the data set and draw samples of each class; returns some of them, and the picture."""
    torch.manual_seed(config.seed)
    choices = {**several(config), **choices}
    data = build.data(config)
    module = build.classifier(config, data)
    normalization, augment = module.normalization, module.method.augment
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{data.name}: images {' x '.join(map(str, data.image_shape))} uint8, {data.num_classes} classes")
    console.print(class_table(data))
    console.print(channel_table(data, normalization, choices["normalization"]))
    console.print(duplicate_line(data))
    output = Path(config.paths.outputs) / "inspect" / f"{data.name}.png"
    plots.save(picture(data, normalization, choices, augment), output)
    console.print(f"pictures       {output}")
    images = {name: len(split) for name in ("train", "val", "test") if (split := getattr(data, name)) is not None}
    shape = {"image_shape": list(data.image_shape), "class_names": list(data.names)}
    return {"data": data.name, **shape, "images": images, "picture": output}


def class_table(data: ImageDataModule) -> Table:
    """Images of each class in each split."""
    splits = {name: split for name in ("train", "val", "test") if (split := getattr(data, name)) is not None}
    counts = {name: split.own_labels.bincount(minlength=data.num_classes).tolist() for name, split in splits.items()}
    table = Table("class", "name", *splits)
    for column in table.columns[2:]:
        column.justify = "right"
    for label, name in enumerate(data.names):
        table.add_row(str(label), name, *(f"{count[label]:,}" for count in counts.values()))
    table.add_section()
    table.add_row("", "all", *(f"{sum(count):,}" for count in counts.values()))
    return table


def channel_table(data: ImageDataModule, normalization: Normalization, name: str) -> Table:
    """Of the training pixels by channel: range, mean and standard deviation, before and after normalization."""
    counts = pixel_counts(data.pixels()).double().cpu()
    values = torch.arange(256, dtype=torch.float64)
    columns: list[list[str]] = []
    for channel, count in enumerate(counts):
        offset, scale = (float(x.flatten()[channel]) for x in (normalization.mean, normalization.std))
        column: list[str] = []
        for unit in (values, values / 255, (values / 255 - offset) / scale):
            seen = unit[count > 0]
            column += [_number(x) for x in (float(seen.min()), float(seen.max()), *_moments(unit, count))]
        columns.append(column)
    table = Table("training pixels", "", *(f"channel {channel}" for channel in range(len(columns))))
    for unit in ("as stored", "divided by 255", f"normalization={name}"):
        for number, statistic in enumerate(("least", "most", "mean", "standard deviation")):
            table.add_row("" if number else unit, statistic, *(column.pop(0) for column in columns))
        table.add_section()
    for shown in table.columns[2:]:
        shown.justify = "right"
    return table


def _number(value: float) -> str:
    return f"{round(value, 4) + 0.0:.4g}"  # + 0.0: no minus before a zero


def _moments(values: Tensor, counts: Tensor) -> tuple[float, float]:
    weights = counts / counts.sum()
    mean = float((weights * values).sum())
    return mean, float((weights * (values - mean).square()).sum().sqrt())


def duplicate_line(data: ImageDataModule) -> str:
    """How many test images are, pixel by pixel, training or validation images too."""
    if not all(isinstance(split, TensorSplit) for split in (data.train, data.test)):
        return "Duplicates were not looked for: the images are not in memory."
    assert data.train is not None and data.test is not None
    kept = {row: True for split in (data.train, data.val) if split is not None for row in _rows(split)}
    test = _rows(data.test)
    shared = sum(row in kept for row in test)
    return (
        f"{shared:,} of {len(test):,} test images are exact duplicates of training or validation images; "
        f"{len(test) - len(set(test)):,} are repeated within the test split."
    )


def _rows(split: Split) -> list[bytes]:
    """Each image as bytes."""
    positions = list(torch.arange(len(split)).split(BATCH))
    return [image.tobytes() for images, _ in split.batches(positions) for image in images.contiguous().numpy()]


def picture(data: ImageDataModule, normalization: Normalization, choices: dict[str, str], augment: Chain) -> "Figure":
    """Ten training images a class as they are, normalized (its range as black to white), and augmented."""
    assert data.train is not None
    num_classes = min(data.num_classes, MAX_CLASSES)
    positions = first_of_each_class(data.train, num_classes, SAMPLES_PER_CLASS)
    images, labels = next(data.train.batches([positions]))
    normalized = normalization(images)
    low, high = normalized.min(), normalized.max()
    name = f"normalization={choices['normalization']}: {float(low):.3g} (black) to {float(high):.3g} (white)"
    batches = {"training images": images, name: (normalized - low) / (high - low)}
    if augment.parts:
        augment.set_position(0, positions)
        batches[f"augmentation={choices['augmentation']}"] = augment(images, labels)[0]
    blocks = {title: np.stack([as_image(image) for image in batch]) for title, batch in batches.items()}
    blocks = {title: b.reshape(num_classes, SAMPLES_PER_CLASS, *b.shape[1:]) for title, b in blocks.items()}
    return plots.class_samples(blocks, data.names[:num_classes])
