"""The look of all figures: matplotlib's settings and the palette. matplotlib is imported when one is drawn."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PALETTE = ("#2f6fde", "#e8743b", "#19a979", "#c03f8f", "#7d5fd3", "#b8912a", "#1aa3b8", "#6b7280", "#d2455a", "#5b8c2a")
SPLITS: dict[str, str] = dict(zip(("train", "val", "test"), PALETTE, strict=False))
GREY, INK, SOFT = "#98a2b3", "#1d2939", "#475467"
BAD = "#b42318"
DASHES = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)))
SETTINGS: Any = {
    "font.family": ["Inter", "Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa4b2",
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ebf0",
    "grid.linewidth": 0.8,
    "xtick.color": "#667085",
    "ytick.color": "#667085",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.title_fontsize": 10,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: small, sharp, and found by the browser's search
    "svg.hashsalt": "lithydra",
}


@contextmanager
def style() -> Iterator[None]:
    """Around what draws a figure, or `@style()` above it. A machine need not have all of the fonts."""
    import matplotlib
    from cycler import cycler

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with matplotlib.rc_context({**SETTINGS, "axes.prop_cycle": cycler(color=PALETTE)}):
        yield


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
