"""Gradients and activations by layer, one line a setting: what a deep net does to them before it has learned."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lithydra.run.directory import LAYER_COLUMNS, RunDir
from lithydra.run.style import DASHES, PALETTE
from lithydra.sweeps.results import Frame, Setting, readable

PANELS = {
    "gradient": "Size of the gradient (RMS)",
    "mean": "Mean activation",
    "std": "Spread of activations (std over images)",
}
MIN_LAYERS = 3  # of two, a line says nothing


def layers_at_start(settings: list[Setting]) -> Figure | None:
    """What the runs of each setting measured before training, the mean over repeats.

    None where no run measured, or no net has more than two layers with weights.
    """
    axes = list(settings[0].values) if settings else []
    key = axes[0] if len(axes) == 1 else None
    lines = {str(setting.values[key]) if key else setting.name: _lines(setting) for setting in settings}
    lines = {name: means for name, means in lines.items() if len(means.get("gradient", ())) >= MIN_LAYERS}
    if not lines:
        return None
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    for panel, (quantity, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for index, (name, means) in enumerate(lines.items()):
            if quantity in means:
                values = means[quantity]
                panel.plot(
                    range(1, len(values) + 1),
                    values,
                    color=PALETTE[index % len(PALETTE)],
                    linestyle=DASHES[index % 2],  # some lines lie upon others
                    marker="o",
                    markersize=3.5,
                    label=name,
                )
        panel.set_title(title, fontsize=9.5)
        panel.set_xlabel("layer, from input to output")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity != "mean":
            panel.set_yscale("log")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, title=key, loc="outside lower center", ncols=7 if key else 4, fontsize=8.5)
    return figure


def _lines(setting: Setting) -> dict[str, list[float]]:
    """By quantity, the values of the layers from input to output."""
    rows: Any = pd.concat([_at_start(RunDir(Path(path))) for path in setting.jobs["run"]])
    if rows.empty:
        return {}
    means: Any = rows.groupby(["quantity", "layer"], sort=False)["value"].mean()
    return {str(quantity): list(group) for quantity, group in means.groupby(level=0, sort=False)}


def _at_start(run: RunDir) -> Frame:
    """The rows of layers.csv from before training."""

    def read() -> Frame:
        rows: Frame = pd.DataFrame(run.read_layers())
        if rows.empty:
            return rows
        rows = rows[[*LAYER_COLUMNS]].astype({"epoch": int, "value": float})
        return rows[rows["epoch"] == 0]

    return readable(run.layers, read, pd.DataFrame())
