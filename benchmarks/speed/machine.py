"""Writes down where the measurements are made. A process of its own, since it imports torch."""

import platform
from importlib.metadata import version
from pathlib import Path

from lithydra.run.provenance import git_state, hardware

from .result import write_result

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "numpy")

if __name__ == "__main__":
    git = git_state(Path(__file__).parent)
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    changed = git["commit"] is not None and git["diff"] != ""
    write_result(machine=hardware(), versions=versions, commit=git["commit"], uncommitted=changed)
