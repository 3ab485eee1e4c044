"""Learning curves of all recipes, small and beside each other."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lithydra.run.style import PALETTE, style
from reproduction.plan import Recipe

COLUMNS = 4


@style()
def plot_recipes(recipes: Sequence[Recipe], path: Path) -> bool:
    """Training accuracy by epoch of each run, and its test accuracy as a dashed line. False where none has ended."""
    classify = [recipe for recipe in recipes if recipe.metric == "test/acc"]
    done = [recipe for recipe in classify if any(recipe.finished(seed) for seed in recipe.seeds)]
    if not done:
        return False
    rows = -(-len(done) // COLUMNS)
    figure = Figure(figsize=(11, 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for panel, recipe in zip(panels, done, strict=False):
        numbers: list[int] = []
        for index, seed in enumerate(seed for seed in recipe.seeds if recipe.finished(seed)):
            run = recipe.run(seed)
            epochs = run.read_metrics()
            color = PALETTE[index % len(PALETTE)]
            numbers = [int(row["epoch"]) for row in epochs]
            panel.plot(
                numbers, [float(row["train/acc"]) for row in epochs], color=color, marker="." * (len(epochs) == 1)
            )
            panel.axhline(run.read_status()["metrics"]["test/acc"], color=color, linestyle="--", linewidth=0.9)
        panel.set_title(recipe.name, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        if max(numbers) == 1:
            panel.set_xticks([1])
    for panel in list(figure.axes)[len(done) :]:
        panel.remove()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("accuracy: training (line), test (dashed); one colour a seed", fontsize=8)
    figure.savefig(path, dpi=110)
    return True
