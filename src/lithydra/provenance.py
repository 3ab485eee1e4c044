"""Where a run comes from: code, packages, machine, data. Enough to say later why two runs differ."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from lithydra.run_dir import RunDir


def provenance(
    seed: int, choices: dict[str, str], overrides: list[str], data: dict[str, Any], trainer: dict[str, Any]
) -> dict[str, Any]:
    """What provenance.json holds. `data` and `trainer` are facts that only the run knows."""
    return {
        "command": sys.argv,
        "choices": choices,
        "overrides": overrides,
        "seed": seed,
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
        "data": data,
        "trainer": trainer,
    }


def all_choices(run: RunDir, choices: dict[str, str], overrides: list[str]) -> dict[str, str]:
    """The option taken in each config group: of a resumed run its own, but for those that `overrides` name."""
    parts = _parts(run)
    if not parts:
        return choices
    named = {override.lstrip("+~").split("=")[0].split("@")[0] for override in overrides}
    return {**parts[-1]["choices"], **{group: choice for group, choice in choices.items() if group in named}}


def all_overrides(run: RunDir) -> list[str]:
    """Of all the commands that a run was trained with, the first one's first."""
    return [override for part in _parts(run) for override in part["overrides"]]


def _parts(run: RunDir) -> list[dict[str, Any]]:
    """What provenance.json holds of each command."""
    origin = run.read_provenance()
    return [origin, *origin.get("resumed", [])] if origin else []


@cache  # it takes a while, and a sweep's jobs are forked from a process that knows it
def packages() -> dict[str, str]:
    return {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}


@cache
def git_state(folder: Path) -> dict[str, str | None]:
    """Commit and uncommitted changes of the checkout that `folder` is in; None where there is no git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout

    commit = git("rev-parse", "HEAD")
    return {"commit": commit and commit.strip(), "diff": git("diff", "HEAD")}


def hardware() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
