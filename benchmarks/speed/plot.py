"""The summary as a picture: ratios as bars, and how an epoch's time grows as lines."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from lithydra.run.style import GREY, PALETTE, style

from .workloads import CONTENDERS

COLORS = dict(zip(("lithydra", "lightning", "dataloader"), PALETTE, strict=False)) | {"bare": GREY}
AXES = {"data": "images", "depth": "hidden layers", "batch_size": "batch size"}


def draw(summary: dict[str, Any], path: Path) -> None:
    """Write a PNG with a row for the workloads and a row for the scaling, as far as `summary` holds them."""
    panels = [(_bars, summary["workloads"]), (_lines, summary["scaling"])]
    panels = [(panel, items) for panel, items in panels if items]
    if not panels:
        return
    with style():
        figure = Figure(figsize=(12, 3.6 * len(panels)), layout="constrained")
        for row, (panel, items) in zip(figure.subfigures(len(panels), squeeze=False)[:, 0], panels, strict=True):
            for axes, (name, values) in zip(row.subplots(1, len(items), squeeze=False)[0], items.items(), strict=True):
                panel(axes, name, values)
        figure.savefig(path, dpi=130)


def _bars(axes: Axes, name: str, workload: dict[str, Any]) -> None:
    """Epoch times of one workload; each bar names its ratio to the first contender's."""
    times = {who: workload["seconds"][who] for who in CONTENDERS if who in workload["seconds"]}
    bars = axes.bar(list(times), list(times.values()), 0.75, color=[COLORS[who] for who in times])
    first = next(iter(times.values()))
    axes.bar_label(bars, [f"{seconds / first:.2f}x" for seconds in times.values()], padding=2, fontsize=9)
    axes.axhline(first, color="#444444", linewidth=0.8, linestyle="--", zorder=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.set_ylabel("seconds an epoch")
    axes.set_title(f"{name}, {workload['num_train']:,} images")


def _lines(axes: Axes, axis: str, times: dict[str, dict[str, float]]) -> None:
    for who, some in times.items():
        points = [int(point) for point in some]
        axes.plot(points, list(some.values()), "o-", color=COLORS[who], label=who, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(points, [f"{point:,}" for point in points])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel("seconds an epoch")
    axes.set_title(f"By {AXES[axis]}")
    axes.legend()
