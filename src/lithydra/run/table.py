"""A finished run in the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from lithydra.run.directory import PROFILE, RunDir, training_seconds
from lithydra.run.metric_names import by_split, names_of, words
from lithydra.run.page import commands
from lithydra.run.rendering import duration

MOST_COLUMNS = 4  # of metrics beside each other
PROFILE_LINES = 16  # of each file of a profiler that are printed


def metrics_table(metrics: dict[str, float], title: str) -> Table:
    """A row a split and a column a metric, or the other way round where they are many."""
    names, values = names_of(metrics), by_split(metrics)
    splits = list(values)

    def shown(split: str, name: str) -> str:
        value = values[split].get(name)
        return "" if value is None else f"{value:.4f}"

    if len(names) <= MOST_COLUMNS:
        table = Table("split", *map(words, names), title=title)
        for split in splits:
            table.add_row(split, *(shown(split, name) for name in names))
    else:
        table = Table("metric", *splits, title=title)
        for name in names:
            table.add_row(words(name), *(shown(split, name) for split in splits))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def how(config: dict[str, Any], weights: str = "averaged", tta: str | None = None) -> str:
    """Which weights and views of the images a run's figures are of, where there is a choice."""
    views = tta or config["tta"]
    return (f", {weights} weights" if config["average"] else "") + (f", tta={views}" if views != "none" else "")


def print_results(run: RunDir, seconds: float, images_per_second: float | None) -> None:
    """The run's metrics by split, and the commands that a person may want next."""
    status = run.read_status()
    metrics: dict[str, float] = status["metrics"]
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(metrics_table(metrics, f"Run {run.path.name}{how(run.read_config())}"))
    if "best_epoch" in status:
        which = f"best epoch {status['best_epoch']} of {status['epoch']}"
    else:
        which = (
            f"last of {status['epoch']} epochs ({'not one is best' if 'val' in by_split(metrics) else 'no validation'})"
        )
    speed = f", {images_per_second:,.0f} images/s in training" if images_per_second else ""
    took = f"{seconds:.1f} s in all"
    if len(run.origins()) > 1 and (trained := training_seconds(run.read_metrics())):
        took = f"{seconds:.1f} s since it was resumed, trained {duration(trained)} in all"
    console.print(f"{which}, {took}{speed}")
    console.print(f"run directory  {run.path}")
    if run.page.exists():
        console.print(f"pictures       {run.page}")
    for name, command in commands(run, status).items():
        console.print(f"{name:<15}{command}")
    for profile in sorted(run.path.glob(f"*-{PROFILE}*.txt")):
        console.print(f"\n{profile}, its first lines:", *profile.read_text().splitlines()[:PROFILE_LINES], sep="\n")
