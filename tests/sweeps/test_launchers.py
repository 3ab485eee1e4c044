"""Launchers that others have made: the same run directories, the same results, the same way to go on."""

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import ROOT
from lithydra.sweeps.directory import SweepDir
from sweeping import QUICK, Done, sweep, table

SWEEP = ("lr=0.1,0.001", "seed=0,1", *QUICK)
# Launcher: the package it needs, and what keeps it small.
LAUNCHERS = {
    "basic": ("hydra", ()),
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ("hydra.launcher.n_jobs=2",)),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ("hydra.launcher.timeout_min=5",)),
    "ray": ("hydra_plugins.hydra_ray_launcher", ("+hydra.launcher.ray.init.num_cpus=2",)),
}


def command(*overrides: str, folder: Path, data_dir: Path) -> Done:
    """What a person types."""
    environment = {**os.environ, "LITHYDRA_DATA": str(data_dir), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, "sweep.name=s"]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return Done(done.returncode, done.stdout + done.stderr, SweepDir(folder / "outputs" / "sweeps" / "s"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_other_launchers_fill_the_same_directory(launcher: str, data_dir: Path, tmp_path: Path) -> None:
    package, settings = LAUNCHERS[launcher]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    reference = sweep(*SWEEP, folder=tmp_path / "reference", data_dir=data_dir)
    assert reference.code == 0, reference.output
    folder = tmp_path / "other"
    folder.mkdir()
    broken = command(
        *SWEEP, f"hydra/launcher={launcher}", *settings, "trainer.fast_dev_run=abc", folder=folder, data_dir=data_dir
    )
    assert broken.code in (1, 2), shlex.join(SWEEP)
    done = command(
        *SWEEP, f"hydra/launcher={launcher}", *settings, "sweep.fresh=true", folder=folder, data_dir=data_dir
    )
    assert done.code == 0, done.output
    assert table(done) == table(reference)
    visible = {path.name for path in done.sweep.path.iterdir() if not path.name.startswith(".")}
    assert {"sweep.json", "configs", *(job.run for job in done.sweep.read().jobs)} <= visible
    assert not {name for name in visible if name.endswith(".yaml")}
    again = command(*SWEEP, folder=folder, data_dir=data_dir)
    assert (again.code, "4 of 4 jobs ended before" in again.output) == (0, True)
