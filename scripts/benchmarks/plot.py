"""The summary as a picture: ratios as bars, and how an epoch's time grows as lines."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from .workloads import CONTENDERS

COLORS = {"bare": "#9aa5b1", "lithydra": "#d1495b", "dataloader": "#30638e", "lightning": "#edae49"}
AXES = {"data": "images", "depth": "hidden layers", "batch_size": "batch size"}
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10, "axes.titlesize": 11}


def draw(summary: dict[str, Any], path: Path) -> None:
    """Write a PNG with a panel for each measurement that `summary` holds."""
    top, bottom = bool(summary["workloads"]), list(summary["scaling"].items())
    if not (top or bottom):
        return
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 3.9 * (top + bool(bottom))), layout="constrained")
        rows = figure.subfigures(top + bool(bottom), squeeze=False)[:, 0]
        if top:
            _bars(rows[0].subplots(), summary["workloads"])
        if bottom:
            for axes, (axis, times) in zip(rows[-1].subplots(1, len(bottom), squeeze=False)[0], bottom, strict=True):
                _lines(axes, axis, times)
        figure.savefig(path, dpi=130)


def _bars(axes: Axes, workloads: dict[str, Any]) -> None:
    """Epoch time over that of the bare loop, or over lithydra's where the bare loop was not measured."""
    shown = [who for who in CONTENDERS if any(who in w["seconds"] for w in workloads.values())]
    base = "bare" if "bare" in shown else shown[0]
    width = 0.8 / len(shown)
    for number, who in enumerate(shown):
        ratios = [w["seconds"][who] / w["seconds"][base] for w in workloads.values()]
        offset = (number - (len(shown) - 1) / 2) * width
        places = [place + offset for place in range(len(ratios))]
        bars = axes.bar(places, ratios, width * 0.94, color=COLORS[who], label=who)
        axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=2, fontsize=9)
    axes.axhline(1, color="#444444", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xticks(range(len(workloads)), [f"{name}\n{w['num_train']:,} images" for name, w in workloads.items()])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"time of an epoch / {base}")
    axes.margins(y=0.12)
    axes.set_title("Time of an epoch, shorter is better", loc="left")
    axes.legend(frameon=False, ncols=len(shown), loc="upper right")


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
    axes.set_title(f"By {AXES[axis]}", loc="left")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
