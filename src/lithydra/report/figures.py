"""The pictures of a sweep's report, as matplotlib figures without a window: curves, gaps, histograms."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from lithydra.run.histograms import Histogram, bound, standard_deviation
from lithydra.run.metric_names import words
from lithydra.run.style import DASHES, GREY, PALETTE, SOFT, shortened
from lithydra.sweeps.results import Frame, Setting, number


def is_numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers by size, others in the order they come in. Where there is no value, None stands."""
    seen = list(dict.fromkeys(value for value in values if value == value and value is not None))
    return sorted(seen) if is_numeric(seen) else seen


def colors(values: Sequence[Any]) -> dict[Any, Any]:
    """Numbers get a ramp, so that their order shows; names get colors far apart."""
    if is_numeric(values) and len(values) > 2:
        ramp = matplotlib.colormaps["viridis"]
        return {value: ramp(0.05 + 0.75 * i / (len(values) - 1)) for i, value in enumerate(values)}
    return {value: PALETTE[i % len(PALETTE)] for i, value in enumerate(values)}


def wants_log(values: Sequence[float]) -> bool:
    """Whether values span magnitudes, and most of them would be crowded at the low end of a straight scale."""
    if len(values) < 2 or min(values) <= 0 or max(values) / min(values) < 30:
        return False
    crowded = np.median(values) < min(values) + 0.2 * (max(values) - min(values))
    return len(values) == 2 or bool(crowded)


def plain_log_ticks(axis: Axis) -> None:
    """0.01, 0.1, 1 instead of powers of ten."""
    low, high = axis.get_data_interval()
    subs = (1.0,) if low > 0 and high / low > 300 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def learning_curves(epochs: Frame, axis: str, axes: Sequence[str], objective: str) -> Figure:
    """The objective, validation accuracy and loss by epoch, colored by `axis`; of two axes, the other one is the kind
    of line.

    A line is the mean over the repeats of a setting.
    """
    wanted = dict.fromkeys(
        (objective, "val/acc", "val/loss") if objective.startswith("val/") else ("val/acc", "val/loss")
    )
    metrics = [name for name in wanted if name in epochs and epochs[name].notna().any()][:2]
    figure = Figure(figsize=(10.4, 3.7), layout="constrained")
    values = distinct(epochs[axis])
    shades, many = _curve_colors(values), len(values) > 10
    other = next((a for a in axes if a != axis), None) if len(axes) == 2 and not many else None
    dashes = dict(zip(distinct(epochs[other]), itertools.cycle(DASHES))) if other else {}
    metrics = metrics or [name for name in (objective, "train/acc", "train/loss") if name in epochs][:2]
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        for _, setting in epochs.groupby(list(axes) or [axis], sort=False, dropna=False):
            look = {"color": shades.get(setting[axis].iloc[0], GREY), "lw": 1.3 if many else 2}
            _draw_setting(
                panel, setting, metric, look | {"ls": dashes.get(setting[other].iloc[0], "-") if other else "-"}
            )
        panel.set_title(f"{words(metric)} by epoch".capitalize())
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        _limit(panel, epochs[metric], metric)
    if many:
        _color_bar(figure, panels[-1], values, axis)
    else:
        _legends(
            panels[-1],
            {axis: [(value, {"color": shades[value], "lw": 2.4}) for value in values]}
            | (
                {other: [(value, {"color": SOFT, "lw": 1.6, "ls": style}) for value, style in dashes.items()]}
                if other
                else {}
            ),
        )
    return figure


def _draw_setting(panel: Axes, setting: Frame, metric: str, look: dict[str, Any]) -> None:
    """The mean of a setting's runs, and faintly each run; a cross ends what a search has pruned."""
    runs = [run for _, run in setting.groupby("name", sort=False)]
    for run in runs if len(runs) > 1 else ():
        panel.plot(run["epoch"], run[metric], color=look["color"], lw=0.7, alpha=0.22)
    mean = setting.groupby("epoch")[metric].mean()
    pruned = bool((setting["state"] == "pruned").all())
    marker = {"marker": "x", "ms": 6, "markevery": [len(mean) - 1], "alpha": 0.7} if pruned else {}
    panel.plot(mean.index, mean, **{"marker": "o" if len(mean) == 1 else None, **look, **marker})


def _legends(panel: Axes, groups: dict[str, list[tuple[Any, dict[str, Any]]]]) -> None:
    """One legend beside the panel, with a heading for each group of lines."""
    handles = []
    for title, lines in groups.items():
        handles.append(Line2D([], [], lw=0, label=title))
        handles += [Line2D([], [], label=f"  {value}", **look) for value, look in lines]
    panel.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=2.2)


def _curve_colors(values: Sequence[Any]) -> dict[Any, Any]:
    """For many numbers (a search), by their place on the scale; else as `colors`."""
    if len(values) <= 10 or not is_numeric(values):
        return colors(values)
    scale = _scale(values)
    return {value: matplotlib.colormaps["viridis"](float(scale(value))) for value in values}


def _scale(values: Sequence[float]) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    return LogNorm(min(values), max(values)) if wants_log(values) else Normalize(min(values), max(values))


def _color_bar(figure: Figure, panel: Axes, values: Sequence[Any], label: str) -> None:
    if is_numeric(values):
        mappable = ScalarMappable(_scale(values), "viridis")
        figure.colorbar(mappable, ax=panel, label=label).outline.set_visible(False)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]


def _limit(panel: Axes, values: Frame, metric: str) -> None:
    """A run that goes astray, or the first epochs of many, must not press the others into one line."""
    finite = values[np.isfinite(values)]
    if finite.empty:
        return
    if metric.endswith("acc"):
        low = 1 - 4 * (1 - finite.median())
        if finite.min() < low and (finite < low).mean() < 0.1:  # more than that is a setting that does not learn
            panel.set_ylim(bottom=low)
        return
    if not metric.endswith("loss"):
        return
    low, middle, high = finite.min(), finite.median(), finite.max()
    if low > 0 and high > 8 * middle:
        panel.set_ylim(0.9 * low, 8 * middle)
        panel.set_yscale("log")
        plain_log_ticks(panel.yaxis)


def gaps(settings: Sequence[Setting], limit: int = 20) -> Figure | None:
    """Training and validation accuracy of the best epoch, and the way between them; the best setting on top."""
    shown = [s for s in settings if {"train/acc", "val/acc"} <= s.metrics.keys()][:limit]
    if not shown:
        return None
    figure = Figure(figsize=(10.4, 0.9 + 0.3 * len(shown)), layout="constrained")
    panel = figure.subplots()
    rows = range(len(shown))
    train = [s.metrics["train/acc"].mean for s in shown]
    val = [s.metrics["val/acc"].mean for s in shown]
    panel.hlines(rows, train, val, color="#d0d5dd", lw=3)
    panel.scatter(train, rows, s=46, color=GREY, zorder=3, label="training")
    panel.scatter(val, rows, s=46, color=PALETTE[0], zorder=3, label="validation")
    for row, (a, b) in enumerate(zip(train, val, strict=True)):
        panel.annotate(
            f"{a - b:+.3f}", (max(a, b), row), (8, 0), textcoords="offset points", va="center", color="#667085"
        )
    panel.set_yticks(rows, [shortened(s.name, 60) for s in shown])
    panel.set_ylim(len(shown) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("accuracy at the best epoch (mean over repeats)")
    panel.margins(x=0.08)
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
    return figure


def histogram_grid(runs: dict[str, dict[str, Histogram]], limit: int = 6) -> Figure | None:
    """A row a parameter, a column a setting, the same scale along a row: widths can be compared at a glance.

    The scale takes in what most values are within; each panel is as high as its highest bin.
    """
    runs = dict(list(runs.items())[:limit])
    names = list(dict.fromkeys(name for histograms in runs.values() for name in histograms))[:limit]
    if not names:
        return None
    figure = Figure(figsize=(10.4, 1.0 + 1.5 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), len(runs), squeeze=False, sharex="row")
    for row, name in zip(panels, names, strict=True):
        reach = max(bound(histograms[name]) for histograms in runs.values() if name in histograms)
        row[0].set_xlim(-reach, reach)
        for index, (panel, (setting, histograms)) in enumerate(zip(row, runs.items(), strict=True)):
            if name in histograms:
                counts, edges = histograms[name]
                density = counts / np.diff(edges)
                color = PALETTE[index % 10]  # with an edge: a bin may be narrower than a pixel
                panel.stairs(density / density.max(), edges, fill=True, color=color, edgecolor=color, linewidth=1)
                panel.text(
                    0.97,
                    0.88,
                    f"std {number(standard_deviation(histograms[name]))}",
                    ha="right",
                    transform=panel.transAxes,
                    fontsize=8,
                    color=SOFT,
                )
            panel.set_yticks([])
            panel.set_ylim(0, 1.3)  # room for the text
            panel.grid(visible=False)
            panel.spines["left"].set_visible(False)
            if panel in panels[0]:
                panel.set_title(
                    "\n".join(shortened(part, 24) for part in setting.split(", ")), fontsize=8 if len(runs) < 5 else 7
                )
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
