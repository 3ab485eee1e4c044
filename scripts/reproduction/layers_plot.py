"""Gradients and activations by layer, one line a setting: what a deep net does to them before it has learned."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lithydra.callbacks.layer_statistics import FILE
from lithydra.sweep_dir import SweepDir
from lithydra.sweep_results import results, varied

PANELS = {"gradient": "size of the gradient (RMS)", "std": "spread of the activations (std over images)"}


def plot_layers(sweep: SweepDir, path: Path) -> bool:
    """Draw what the runs of a sweep measured before training, mean over seeds. False where they measured nothing."""
    axes = varied(sweep.read())
    parts = []
    for job in results(sweep.path).to_dict("records"):
        file = Path(job["run"]) / FILE
        if file.exists():
            rows = pd.read_csv(file)
            setting = ", ".join(str(job[axis]) for axis in axes)
            parts.append(rows[rows["epoch"] == 0].assign(setting=setting))
    if not parts:
        return False
    rows: Any = pd.concat(parts)
    figure = Figure(figsize=(10.4, 4.2), layout="constrained")
    for panel, (quantity, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        groups = rows[rows["quantity"] == quantity].groupby("setting", sort=False)
        for index, (setting, group) in enumerate(groups):
            means = group.groupby("layer", sort=False)["value"].mean()
            dashes = ("-", (0, (4, 3)))[index % 2]  # some lines lie upon others
            panel.plot(
                range(1, len(means) + 1), means, linestyle=dashes, marker="o", markersize=3.5, label=str(setting)
            )
        panel.set(title=title, xlabel="layer, from input to output", yscale="log")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panel = figure.axes[0]
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True
