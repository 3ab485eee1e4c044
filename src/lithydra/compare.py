"""Runs side by side: in which settings they differ, what they gave, and their curves."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lithydra.errors import ConfigError
from lithydra.resume_config import flatten
from lithydra.run_dir import RunDir

METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc")
# Where a run lies and what it shows say nothing about what it is; names repeat what the target says.
UNIMPORTANT = ("paths.", "run", "resume", "sweep.", "logger.", "callbacks.plots", "callbacks.progress_bar")
UNIMPORTANT_ENDS = ("._partial_", "data.name")


def compare(config: DictConfig) -> Path:
    """Print the differences and metrics of `runs`, and draw their curves; returns the picture.

    Raises:
        ConfigError: Fewer than two runs, or one of them is none.
    """
    runs = [RunDir.open(Path(path), "runs") for path in config.runs]
    if len({run.path.resolve() for run in runs}) < 2:
        raise ConfigError(f"runs={list(config.runs)}: at least two different runs are compared")
    from lithydra import plots  # imports numpy

    names = short_names([run.path for run in runs])
    console = Console(highlight=False)
    console.print(difference_table(names, [dict(flatten(run.read_config())) for run in runs]))
    console.print(metric_table(names, [run.read_status() for run in runs]))
    output = Path(config.output) if config.output else Path(config.paths.outputs) / "compare.png"
    plots.save(plots.curves({name: run.read_metrics() for name, run in zip(names, runs, strict=True)}), output)
    console.print(f"curves  {output}", soft_wrap=True)
    return output


def short_names(paths: list[Path]) -> list[str]:
    """The directories' names; where two are the same, with as many parents as tell them apart."""
    for depth in range(1, max(len(path.resolve().parts) for path in paths) + 1):
        names = ["/".join(path.resolve().parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def difference_table(names: list[str], configs: list[dict[str, Any]]) -> Table:
    """A row for each setting in which the runs differ."""
    table = Table("setting", *names, title="Different settings")
    keys = dict.fromkeys(key for config in configs for key in config)  # in the order of the configs
    for key in keys:
        values = [config.get(key, "-") for config in configs]
        if (
            any(value != values[0] for value in values)
            and not key.startswith(UNIMPORTANT)
            and not key.endswith(UNIMPORTANT_ENDS)
        ):
            table.add_row(key.removesuffix("._target_"), *(_shown(value) for value in values))
    if not table.row_count:
        table.add_row("none", *("" for _ in names))
    return table


def metric_table(names: list[str], statuses: list[dict[str, Any]]) -> Table:
    """A row for each metric of the best epochs; the best of a row is bold."""
    table = Table("metric", *names, title="Results")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("state", *(status.get("state", "") for status in statuses))
    table.add_row(
        "best epoch", *(f"{status.get('best_epoch', '-')} of {status.get('epoch', 0)}" for status in statuses)
    )
    for metric in METRICS:
        values = [status.get("metrics", {}).get(metric) for status in statuses]
        there = [value for value in values if value is not None]
        if there:
            best = max(there) if metric.endswith("acc") else min(there)
            cells = ["" if v is None else f"[bold]{v:.4f}[/bold]" if v == best else f"{v:.4f}" for v in values]
            table.add_row(metric, *cells)
    return table


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.startswith(("lithydra.", "torch.", "lightning.")):
        return value.rpartition(".")[2]  # of a _target_, the class
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
