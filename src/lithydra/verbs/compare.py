"""Runs in one table: what they gave and in which settings they differ; and their curves."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lithydra.checks.output import distinct_names, output_of, writing
from lithydra.errors import ConfigError
from lithydra.run.config import FOLLOWS, flatten
from lithydra.run.directory import RunDir
from lithydra.run.metric_names import better, ordered, parts

# Where a run lies and what it shows say nothing about what it is; names repeat what the target says.
UNIMPORTANT = ("paths.", "run", "resume", "sweep.", "logger.", "callbacks.plots", "callbacks.progress_bar")
UNIMPORTANT_ENDS = ("._partial_", "data.name")


def compare(config: DictConfig) -> dict[str, Any]:
    """Print the differences and metrics of `runs`, and draw their curves; returns all of it, in the order of `runs`.

    Raises:
        ConfigError: Fewer than two runs, or one of them is none.
    """
    runs = [RunDir.open(Path(path), "runs") for path in config.runs]
    if len({run.path.resolve() for run in runs}) < 2:
        raise ConfigError(f"runs={list(config.runs)}: at least two different runs are compared")
    from lithydra.run import plots  # imports numpy

    names = distinct_names([run.path.resolve() for run in runs])
    console = Console(highlight=False)
    configs = [dict(flatten(run.read_config())) for run in runs]
    differing = differences(configs)
    console.print(settings_table(names, differing) if differing else "No different settings")
    statuses = [run.read_status() for run in runs]
    console.print(results_table(names, statuses))
    output = output_of("compare", config)
    with writing(config, output):
        plots.save(plots.curves({name: run.read_metrics() for name, run in zip(names, runs, strict=True)}), output)
    console.print(f"curves         {output}", soft_wrap=True, markup=False)
    found: dict[str, Any] = {}
    if config.mistakes:
        from lithydra.verbs.mistakes import compare_mistakes  # imports torch

        path = output.with_name(f"{output.stem}_mistakes.png")
        found = compare_mistakes(runs, names, config.paths.data, list(config.trust), path)
    metrics = [status.get("metrics", {}) for status in statuses]
    paths = [run.path for run in runs]
    return {"runs": paths, "settings": differing, "metrics": metrics, "picture": output, **found}


def settings_table(names: list[str], differing: dict[str, list[Any]]) -> Table:
    """A row for each run, a column for each setting in which the runs differ."""
    shown = short_keys(list(differing))
    columns = {shown[key]: [escape(_shown(value)) for value in values] for key, values in differing.items()}
    return _table("Different settings", names, columns)


def results_table(names: list[str], statuses: list[dict[str, Any]]) -> Table:
    """A row for each run: the metrics of its best epoch, the best of each in bold; the states unless all finished."""
    states = [str(status.get("state", "")) for status in statuses]
    columns = {"state": states} if set(states) != {"finished"} else {}
    columns["best/epoch"] = [f"{status.get('best_epoch', '-')}/{status.get('epoch', 0)}" for status in statuses]
    for metric in ordered(name for status in statuses for name in status.get("metrics", {})):
        values = [status.get("metrics", {}).get(metric) for status in statuses]
        columns[metric] = _best_bold(values, better(metric))
    return _table("Results", names, columns)


def _table(title: str, names: list[str], columns: dict[str, list[str]]) -> Table:
    table = Table(title=title)
    table.add_column("run", overflow="fold")
    for name in columns:
        figure = "/" in name or bool(parts(name)[0])
        table.add_column(name.replace("/", "\n"), justify="right" if figure else "left", no_wrap=figure)
    for row in zip(map(escape, names), *columns.values(), strict=True):
        table.add_row(*row)
    return table


def differences(configs: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The settings that say something of a result and are not the same in all configs, in the configs' order."""
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: [config.get(key, "-") for config in configs] for key in keys}
    followers = {key for source, places in FOLLOWS.items() for key in places if values.get(key) == values.get(source)}
    return {
        key: row
        for key, row in values.items()
        if any(value != row[0] for value in row)
        and key not in followers
        and not key.startswith(UNIMPORTANT)
        and not key.endswith(UNIMPORTANT_ENDS)
    }


def short_keys(keys: list[str]) -> dict[str, str]:
    """By dotted key, its last part; where another key ends so too, the whole. Of a _target_, the group."""
    whole = [key.removesuffix("._target_") for key in keys]
    ends = [key.rpartition(".")[2] for key in whole]
    return {key: end if ends.count(end) == 1 else path for key, path, end in zip(keys, whole, ends, strict=True)}


def _best_bold(values: list[float | None], mode: str | None) -> list[str]:
    known = [value for value in values if value is not None]
    best = None if mode is None else max(known) if mode == "max" else min(known)
    return ["" if v is None else f"[bold]{v:.4f}[/bold]" if v == best else f"{v:.4f}" for v in values]


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.startswith(("lithydra.", "torch.", "lightning.")):
        return value.rpartition(".")[2]  # of a _target_, the class
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
