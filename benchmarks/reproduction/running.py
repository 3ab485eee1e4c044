"""Running what is missing, one process after the other, with a progress bar."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from reproduction.plan import ROOT, Item, Recipe

INTERRUPTED = (130, 143)  # train.py's exit codes after SIGINT and SIGTERM
Task = tuple[str, list[str], Path]  # name, arguments of train.py, log


def missing(items: Sequence[Item], folder: Path) -> list[Task]:
    """What has not ended yet. Without a GPU, what needs one is left out."""
    tasks: list[Task] = []
    for item in items:
        log = folder / "logs" / item.name.replace("/", "-")
        if isinstance(item, Recipe):
            seeds = [seed for seed in item.seeds if not item.finished(seed)]
            if "not_run" not in item.entry and (not item.needs_gpu or torch.cuda.is_available()):
                tasks += [
                    (f"{item.name} seed {seed}", item.arguments(seed), log.with_name(f"{log.name}_{seed}.log"))
                    for seed in seeds
                ]
        elif not item.finished:
            tasks.append((item.name, item.arguments, log.with_name(f"{log.name}.log")))
    return tasks


def run(tasks: Sequence[Task], console: Console) -> list[str]:
    """Run each task; a failure is printed and does not stop the rest. Returns the names of those that failed.

    Raises:
        KeyboardInterrupt: train.py was interrupted; it has saved.
    """
    failed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(tasks))
        for name, arguments, log in tasks:
            progress.update(bar, description=name)
            log.parent.mkdir(parents=True, exist_ok=True)
            code = train(arguments, log)
            if code in INTERRUPTED:
                raise KeyboardInterrupt
            if code != 0:
                failed.append(name)
                lines = log.read_text().strip().splitlines()
                progress.console.print(f"{name}: exit code {code}: {lines[-1] if lines else 'no output'} ({log})")
            else:
                progress.console.print(f"{name}: done")
            progress.advance(bar)
    return failed


def train(arguments: Sequence[str], log: Path) -> int:
    """One call of train.py, its output in `log`; returns its exit code. An interrupt reaches it too, and it saves."""
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
