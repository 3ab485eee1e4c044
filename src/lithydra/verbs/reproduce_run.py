"""Train a run again from what it recorded, and say whether the result is the same bit for bit."""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from lithydra.errors import ConfigError, LithydraError
from lithydra.run.checkpoints import load
from lithydra.run.config import flatten, trainable
from lithydra.run.directory import TIMES, RunDir
from lithydra.run.lifecycle import new_run, new_run_at
from lithydra.training.train import train

# Parts of provenance.json that say where and how, not what.
IGNORED = ("command", "overrides", "choices.callbacks", "choices.logger", "choices.paths", "choices.hydra", "resumed")


def reproduce_run(config: DictConfig) -> dict[str, Any]:
    """Run the training again in a new directory, `again`, and compare metrics and weights.

    Raises:
        ConfigError: The run has not finished.
        LithydraError: The new run gave something else; the message lists what differs between the two.
    """
    run = RunDir.open(Path(config.run))
    if run.read_status().get("state") != "finished":
        raise ConfigError(f"run={run.path}: did not finish (state {run.read_status().get('state')})")
    origin = run.origin()
    settings = trainable(run.read_config(), f"run={run.path}", {}, config)
    if "dir" in settings.data:
        settings.data.dir = config.paths.data
    if config.output:
        again = new_run_at(Path(config.output))
    else:
        again = new_run(Path(config.paths.runs), f"again_{run.path.name}")
    settings.run = str(again.path)
    torch.set_num_threads(origin["hardware"]["torch_threads"])
    train(settings, origin["choices"], origin["overrides"])

    unequal = differences_of_results(run, again)
    causes = differences_of_origin(origin, again.origin())
    _show(causes)
    if unequal:
        why = "; see the table for what differs" if causes else ", and nothing recorded differs between the two"
        raise LithydraError(f"{again.path}: not equal to {run.path} in {', '.join(unequal)}{why}")
    num = len(run.read_metrics())
    print(f"Bit for bit equal: the metrics of {num} epochs, the final metrics, and the last weights.")
    return {"run": run.path, "again": again.path, "equal": True}


def differences_of_results(run: RunDir, again: RunDir) -> list[str]:
    """What is not equal: columns of metrics.csv with the first epoch, final metrics, weights."""
    unequal: list[str] = []
    rows, new_rows = run.read_metrics(), again.read_metrics()
    if len(rows) != len(new_rows):
        unequal.append(f"the number of epochs ({len(rows)} and {len(new_rows)})")
    for column in rows[0] if rows else ():
        pairs = zip(rows, new_rows, strict=False)
        first = next((old["epoch"] for old, new in pairs if column not in TIMES and old[column] != new[column]), None)
        if first is not None:
            unequal.append(f"{column} from epoch {first}")
    before, after = (r.read_status()["metrics"] for r in (run, again))
    unequal += [
        f"final {name} ({before.get(name)} and {after.get(name)})"
        for name in before | after
        if before.get(name) != after.get(name)
    ]
    weights, new_weights = (load(r.last)["state_dict"] for r in (run, again))
    same = weights.keys() == new_weights.keys() and all(torch.equal(weights[k], new_weights[k]) for k in weights)
    return unequal if same else [*unequal, "the last weights"]


def differences_of_origin(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Recorded facts in which two runs differ: code, packages, hardware, threads, data."""
    old, new = dict(flatten(before)), dict(flatten(after))
    keys = [key for key in old | new if old.get(key) != new.get(key) and not key.startswith(IGNORED)]
    return {key: (_short(old.get(key)), _short(new.get(key))) for key in keys}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 and "\n" not in text else f"{len(text.splitlines())} lines"


def _show(causes: dict[str, tuple[str, str]]) -> None:
    console = Console(file=sys.stdout, highlight=False, markup=False)
    if not causes:
        console.print("Code, packages, hardware, threads and data are recorded as the same.")
        return
    table = Table("recorded", "then", "now", title="What differs between the two runs")
    for key, values in causes.items():
        table.add_row(key, *values)
    console.print(table)
