"""What each varied key does to the objective: pictures of one axis, of two, of many, and of a search."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from lithydra.report.figures import colors, distinct, is_numeric, plain_log_ticks, wants_log, words
from lithydra.run.style import BAD, GREY, INK, PALETTE, SOFT
from lithydra.sweeps.results import Frame, Setting, Spread, number, overlap_of

MAX_TICKS = 10  # an axis with more values is a scale
MAX_CHARACTERS = 40  # of all labels along an axis, beside each other


def positions(values: Sequence[Any]) -> tuple[dict[Any, float], str]:
    """Where each value of an axis lies, and the scale: numbers on a line, names side by side."""
    if is_numeric(values) and len(values) > 1:
        return {value: float(value) for value in values}, "log" if wants_log(values) else "linear"
    return {value: float(i) for i, value in enumerate(values)}, "names"


def _set_axis(panel: Axes, axis: str, values: Sequence[Any]) -> dict[Any, float]:
    places, scale = positions(values)
    if scale == "log":
        panel.set_xscale("log")
        panel.update_datalim([(value, 0) for value in (min(values), max(values))], updatey=False)
        plain_log_ticks(panel.xaxis)
    if len(values) <= MAX_TICKS:
        names = [str(value) for value in values]
        panel.set_xticks(list(places.values()), names)
        if sum(map(len, names)) > MAX_CHARACTERS:
            panel.tick_params(axis="x", labelrotation=25)
        panel.minorticks_off()
    if scale == "names":
        panel.set_xlim(-0.5, len(values) - 0.5)
    panel.set_xlabel(axis)
    return places


def effect(frame: Frame, axis: str, other: str | None, metric: str) -> Figure:
    """The objective by one axis: each run a dot, the mean a line with its 95 % interval.

    Args:
        other: A second axis, one line a value; None takes all the rest together.
    """
    done = frame[(frame["state"] == "finished") & frame[metric].notna()]
    figure = Figure(figsize=(5.1, 3.7), layout="constrained")
    panel = figure.subplots()
    values = distinct(frame[axis])
    is_scale = len(values) > MAX_TICKS and is_numeric(values)
    places = _set_axis(panel, axis, values)
    if is_scale:
        pruned = frame[(frame["state"] == "pruned") & frame[metric].notna()]
        panel.scatter(pruned[axis].map(places), pruned[metric], s=26, color=GREY, marker="x", label="pruned")
    lines = (
        [(None, done)] if other is None else [(value, done[done[other] == value]) for value in distinct(frame[other])]
    )
    shades = {None: PALETTE[0]} if other is None else colors([value for value, _ in lines])
    for index, (label, runs) in enumerate(lines):
        # Names leave room to set the lines' intervals side by side.
        shift = 0.0 if is_numeric(values) else 0.09 * (index - (len(lines) - 1) / 2)
        x = runs[axis].map(places) + shift
        size, alpha = (34, 0.8) if is_scale else (14, 0.35)
        panel.scatter(x, runs[metric], s=size, color=shades[label], alpha=alpha, lw=0)
        if len(values) <= MAX_TICKS:
            spreads = {places[v] + shift: _spread(runs[runs[axis] == v], metric) for v in values}
            _draw_means(
                panel,
                {place: spread for place, spread in spreads.items() if spread},
                shades[label],
                str(label),
                joined=is_numeric(values) or other is not None,  # a line tells which belong together
            )
    panel.set_title(f"Effect of {axis}" + (f", by {other}" if other else ""))
    panel.set_ylabel(words(metric))
    _keep_in_view(panel, done[metric])
    if other is not None:
        panel.legend(title=other, alignment="left", loc="best", frameon=True, framealpha=0.85, edgecolor="none")
    return figure


def _spread(runs: Frame, metric: str) -> Spread | None:
    return Spread.of(runs[metric].tolist(), overlap_of(runs))


def _draw_means(panel: Axes, spreads: dict[float, Spread], color: Any, label: str, *, joined: bool) -> None:
    means = [spread.mean for spread in spreads.values()]
    errors = [spread.half_width or 0.0 for spread in spreads.values()]
    look = {"ls": "-" if joined else "none", "lw": 2.2, "marker": "o", "ms": 6, "capsize": 3, "elinewidth": 1.2}
    panel.errorbar(list(spreads), means, errors, color=color, label=label, **look)


def _keep_in_view(panel: Axes, values: Frame) -> None:
    """The runs set the scale, not the intervals: of three runs, one may reach far beyond all."""
    if len(values) > 1 and values.max() > values.min():
        room = 0.12 * (values.max() - values.min())
        panel.set_ylim(values.min() - room, values.max() + room)


def heat_map(frame: Frame, settings: Sequence[Setting], rows: str, columns: str, metric: str, mode: str) -> Figure:
    """The mean of the objective for each pair of values; the best has a frame, a pair without a result says why."""
    row_values = distinct(frame[rows])
    column_values = distinct(frame[columns])
    grid = np.full((len(row_values), len(column_values)), np.nan)
    figure = Figure(figsize=(10.4, 1.3 + 0.62 * len(row_values)), layout="constrained")
    panel = figure.subplots()
    cells = {(row_values.index(s.values[rows]), column_values.index(s.values[columns])): s for s in settings}
    for place, setting in cells.items():
        if metric in setting.metrics:
            grid[place] = setting.metrics[metric].mean
    ramp = matplotlib.colormaps["YlGnBu" if mode == "max" else "YlGnBu_r"]
    low, high = np.nanpercentile(grid, [0, 100]) if np.isfinite(grid).any() else (0.0, 1.0)
    panel.imshow(grid, cmap=ramp, aspect="auto", vmin=low - 0.1 * (high - low), vmax=high + 0.25 * (high - low))
    for (row, column), setting in cells.items():
        spread = setting.metrics.get(metric)
        share = 0.0 if spread is None or high == low else (spread.mean - low) / (high - low)
        dark = spread is not None and (share if mode == "max" else 1 - share) > 0.75
        text = str(spread).replace(" ± ", "\n± ") if spread else next(iter(setting.states), "")
        panel.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    ranks = {id(setting): rank for rank, setting in enumerate(settings)}
    best = min(cells, key=lambda place: ranks[id(cells[place])], default=None)
    if best is not None:
        panel.add_patch(Rectangle((best[1] - 0.48, best[0] - 0.47), 0.96, 0.94, fill=False, ec=PALETTE[1], lw=2.2))  # pyright: ignore[reportAttributeAccessIssue]
    panel.set_xticks(range(len(column_values)), [str(v) for v in column_values])
    panel.set_yticks(range(len(row_values)), [str(v) for v in row_values])
    panel.set_xlabel(columns)
    panel.set_ylabel(rows)
    panel.set_title(f"{words(metric)}: {rows} and {columns}".capitalize())
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    return figure


def parallel_coordinates(settings: Sequence[Setting], axes: Sequence[str], metric: str, mode: str) -> Figure:
    """A line a setting through its values to its score; the brighter, the better."""
    shown = [s for s in settings if metric in s.metrics][::-1]  # the best last, so on top
    scores = [s.metrics[metric].mean for s in shown]
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    panel = figure.subplots()
    heights, labels = zip(*(_heights([s.values[axis] for s in shown]) for axis in axes), strict=True)
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    last = [(score - low) / ((high - low) or 1.0) for score in scores]
    ramp = matplotlib.colormaps["viridis"]
    for i, setting in enumerate(shown):
        line = [column[setting.values[axis]] for column, axis in zip(heights, axes, strict=True)] + [last[i]]
        share = (i + 1) / len(shown)
        panel.plot(range(len(line)), line, color=ramp(share * 0.9), lw=0.8 + 2 * share**4, alpha=0.25 + 0.7 * share**2)
    for place, ticks in enumerate((*labels, {number(low): 0.0, number(high): 1.0})):
        panel.axvline(place, color=GREY, lw=1)
        for text, height in ticks.items():
            panel.text(place - 0.02, height, text, ha="right", va="center", fontsize=8.5, color=SOFT)
    panel.set_xticks(range(len(axes) + 1), [*axes, words(metric)])
    panel.set_yticks([])
    panel.set_xlim(-0.25, len(axes) + 0.1)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    return figure


def _heights(values: Sequence[Any]) -> tuple[dict[Any, float], dict[str, float]]:
    """Each value's height between 0 and 1, and the labels along the way."""
    choices = distinct(values)
    places, scale = positions(choices)
    at = {value: float(np.log(place)) if scale == "log" else place for value, place in places.items()}
    low, high = min(at.values(), default=0.0), max(at.values(), default=1.0)
    heights = {value: (place - low) / (high - low) if high > low else 0.5 for value, place in at.items()}
    ends = choices if len(choices) <= 5 or not is_numeric(choices) else [choices[0], choices[-1]]
    return heights, {f"{v:.3g}" if isinstance(v, float) else str(v): heights[v] for v in ends}


def search_history(frame: Frame, metric: str, mode: str) -> Figure:
    """Each trial's objective in the order of the search, and the best so far."""
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    panel = figure.subplots()
    order = np.arange(len(frame))
    for state, marker, color, label in (
        ("finished", "o", PALETTE[0], "finished"),
        ("pruned", "x", GREY, "pruned (best so far)"),
    ):
        chosen = (frame["state"] == state).to_numpy() & frame[metric].notna().to_numpy()
        if chosen.any():
            panel.scatter(order[chosen], frame[metric][chosen], s=34, color=color, marker=marker, label=label, zorder=3)
    done = frame[metric].where(frame["state"] == "finished")
    best = done.cummax() if mode == "max" else done.cummin()
    panel.step(order, best.ffill(), where="post", color=PALETTE[1], lw=2, label="best so far")
    bad = frame["state"].isin(["failed", "diverged"]).to_numpy()
    if bad.any():
        panel.plot(
            order[bad],
            np.full(bad.sum(), 0.03),
            "v",
            color=BAD,
            transform=panel.get_xaxis_transform(),
            label="failed or diverged",
        )
    panel.set_xlabel("trial")
    panel.set_ylabel(words(metric))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
    return figure
