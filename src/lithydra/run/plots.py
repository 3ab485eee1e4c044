"""Figures of a run: numbers and uint8 images in, a matplotlib Figure out. matplotlib is imported when one is drawn.

Images are (H, W, C) with one or three channels. No figure goes through pyplot, so nothing is shown and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from lithydra.run.directory import NO_METRICS
from lithydra.run.metric_names import by_split, names_of, words
from lithydra.run.style import BAD, GREY, INK, PALETTE, SOFT, SPLITS, shortened, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED_CLASSES = 20  # beyond, names and counts would be too small to read


class Guess(NamedTuple):
    """An image with what a net makes of it."""

    image: np.ndarray  # (H, W, C) uint8
    predicted: str
    probability: float
    truth: str


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, at 100 pixels an inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def pixels(figure: Figure) -> np.ndarray:
    """Draw the figure: (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save(figure: Figure, path: Path) -> np.ndarray:
    """Draw the figure into a PNG; returns its pixels. `savefig` would lay it out and draw it twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels(figure)
    Image.fromarray(image).save(path)
    return image


@style()
def curves(runs: dict[str, list[dict[str, str]]], best_epoch: int | None = None) -> Figure:
    """Loss and accuracy by epoch, and the learning rate where it changes.

    Args:
        runs: Rows of metrics.csv, by the run's name. Of several runs each has a color, and validation is dashed.
        best_epoch: Marked where there is one.
    """
    measured = (name for rows in runs.values() for row in rows for name, value in row.items() if value)
    found = names_of(name for name in measured if name not in NO_METRICS)
    changes = len({row.get("lr") for rows in runs.values() for row in rows}) > 1
    panels = [name for name in ("loss", "acc") if name in found] or found[:2]
    panels += ["lr"] if changes else []
    drawn = figure(4.6 * len(panels), 3.6)
    for axes, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, rows) in enumerate(runs.items()):
            color = None if len(runs) == 1 else PALETTE[number % len(PALETTE)]
            _draw_lines(axes, panel, rows, name if len(runs) > 1 else "", color)
        axes.set(xlabel="epoch", title="learning rate" if panel == "lr" else words(panel))
        axes.xaxis.get_major_locator().set_params(integer=True)
        if best_epoch is not None and panel != "lr":
            axes.axvline(best_epoch, color=GREY, linestyle=":", linewidth=1.2, label="best epoch")
        if panel == panels[0]:
            axes.legend(fontsize=9)
    return drawn


def _draw_lines(axes: Axes, panel: str, rows: list[dict[str, str]], name: str, color: str | None) -> None:
    epochs = [int(row["epoch"]) for row in rows]
    marker = "o" if len(epochs) < 15 else ""
    if panel == "lr":
        values = [float(row.get("lr") or "nan") for row in rows]
        axes.plot(epochs, values, color=color or SOFT, marker=marker, markersize=4)
        return
    columns = [by_split(row) for row in rows]
    for split in ("train", "val", ""):
        values = [float(row.get(split, {}).get(panel) or "nan") for row in columns]
        if np.isfinite(values).any():
            style = "--" if split == "val" and color else "-"
            label = f"{name} {split}".strip()
            axes.plot(
                epochs, values, style, color=color or SPLITS.get(split, SOFT), label=label, marker=marker, markersize=4
            )


@style()
def confusion(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Counts (true class, predicted class), colored by the share of the true class."""
    num = len(names)
    side = min(12.0, 2.4 + 0.45 * min(num, MAX_NAMED_CLASSES))
    drawn = figure(side + 0.8, side)
    axes = drawn.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    drawn.colorbar(shown, ax=axes, label="share of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.grid(visible=False)
    if num <= MAX_NAMED_CLASSES:
        axes.set_xticks(range(num), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(num), names)
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=8)
    return drawn


@style()
def reliability(bins: np.ndarray) -> Figure:
    """How often the predicted class is right, by its probability; below, how many images have such a probability.

    Guo et al., "On calibration of modern neural networks", 2017, section 2, with the expected calibration error.

    Args:
        bins: (bins, 3): images, the sum of their probabilities, and how many are right.
    """
    count, confidence, right = bins.T
    filled, centers = count > 0, (np.arange(len(bins)) + 0.5) / len(bins)
    gaps = np.abs(right - confidence)[filled].sum() / max(1, count.sum())
    drawn = figure(5.2, 5.2)
    upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 0.9 / len(bins)
    upper.bar(centers[filled], right[filled] / count[filled], width, color=PALETTE[0], label="right")
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="as often as it says")
    upper.set(ylabel="accuracy", ylim=(0, 1), title=f"Calibration error {gaps:.4f} on {int(count.sum()):,} test images")
    upper.legend(fontsize=9, loc="upper left")
    lower.bar(centers, count / max(1, count.sum()), width, color=SOFT)
    lower.set(xlabel="probability of the predicted class", ylabel="images", xlim=(0, 1))
    lower.yaxis.set_major_formatter("{x:.0%}")
    return drawn


@style()
def class_samples(blocks: dict[str, np.ndarray], names: Sequence[str]) -> Figure:
    """A row of images for each class, in one block or in several side by side.

    Args:
        blocks: (classes, images, H, W, C) uint8, by title.
        names: Of the classes.
    """
    rows, columns = next(iter(blocks.values())).shape[:2]
    height = min(14.0, 0.6 * rows)
    drawn = figure((0.6 * columns + 0.3) * len(blocks) + 0.1 * max(map(len, names)), height + 0.5)
    for axes, (title, images) in zip(drawn.subplots(1, len(blocks), squeeze=False)[0], blocks.items(), strict=True):
        cell = images.shape[2] + 1
        _show(axes, mosaic(images))
        axes.set_title(title)
        labels = names if axes is drawn.axes[0] else [""] * rows
        axes.set_yticks([cell * (row + 0.5) for row in range(rows)], labels)
    return drawn


@style()
def guesses(items: Sequence[Guess], title: str = "", columns: int = 8) -> Figure:
    """Images with the predicted class, its probability, and the true class where it is known."""
    rows = -(-len(items) // columns)
    drawn = figure(1.35 * columns, 1.75 * rows + (0.4 if title else 0.0))
    axes = drawn.subplots()
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        left, top = 1.35 * column, 1.75 * row
        _show(axes, item.image, (left + 0.1, left + 1.25, top + 1.7, top + 0.55))
        right = not item.truth or item.predicted == item.truth
        middle = left + 0.675
        text = f"{shortened(item.predicted, 12)} ({item.probability:.0%})"
        baseline = top + (0.27 if item.truth else 0.48)
        axes.text(middle, baseline, text, ha="center", va="bottom", fontsize=9, color=INK if right else BAD)
        if item.truth:
            axes.text(
                middle, top + 0.3, f"true: {shortened(item.truth, 12)}", ha="center", va="top", fontsize=8, color=SOFT
            )
    axes.set(xlim=(0, 1.35 * columns), ylim=(1.75 * rows, 0), title=title)
    axes.set_axis_off()
    return drawn


@style()
def filters(images: np.ndarray, title: str) -> Figure:
    """The weights of a first layer as images: (N, H, W, C) float, each scaled by its largest absolute value."""
    count = len(images)
    columns = min(16, count)
    scale = np.abs(images).max(axis=(1, 2, 3), keepdims=True)
    values = np.clip(images / np.where(scale == 0, 1, scale), -1, 1)
    if values.shape[-1] == 3:
        shown = (127.5 * (values + 1)).astype(np.uint8)
    else:
        from matplotlib import colormaps

        shown = (255 * colormaps["RdBu_r"]((values[..., 0] + 1) / 2)[..., :3]).astype(np.uint8)
    blank = np.full((-count % columns, *shown.shape[1:]), 255, np.uint8)
    grid = np.concatenate([shown, blank]).reshape(-1, columns, *shown.shape[1:])
    drawn = figure(max(4.0, 0.6 * columns), 0.6 * len(grid) + 0.6)
    axes = drawn.subplots()
    _show(axes, mosaic(grid))
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def mosaic(images: np.ndarray) -> np.ndarray:
    """(rows, columns, H, W, C) to one image, with a white line of one pixel around each."""
    rows, columns, height, width, channels = images.shape
    framed = np.full((rows, columns, height + 1, width + 1, channels), 255, np.uint8)
    framed[:, :, :height, :width] = images
    return framed.swapaxes(1, 2).reshape(rows * (height + 1), columns * (width + 1), channels)


def _show(axes: Axes, image: np.ndarray, extent: Any = None) -> None:
    gray = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
    shown = image[..., 0] if image.shape[-1] == 1 else image
    axes.imshow(shown, extent=extent, interpolation="nearest", aspect="equal", **gray)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
