"""Each extra installs in an environment of its own as the docs say, and what it is for works there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from test_installing import EXTRAS, TOLD

# Extra: the tests that are skipped without it.
TESTS = {
    "dev": ["tests/test_installing.py"],
    "sweep": ["tests/search/test_search.py", "-k", "diverging or best_can_be_composed"],
    "export": ["tests/verbs/test_export.py", "-k", "each_format"],
    "explain": ["tests/verbs/test_explain.py"],
    "notebook": ["tests/test_notebook.py"],
    "serve": ["tests/verbs/test_serve.py"],
    "slurm": ["tests/sweeps/test_launchers.py", "-k", "submitit"],
    "ray": ["tests/sweeps/test_launchers.py", "-k", "ray"],
    "joblib": ["tests/sweeps/test_launchers.py", "-k", "joblib"],
    **{name: ["tests/test_contracts.py", "-k", f"logger/{name}"] for name in ("trackio", "wandb", "mlflow")},
}


def test_every_extra_is_tried() -> None:
    assert {*TESTS} == {*EXTRAS}


def environment(folder: Path, *packages: str) -> Path:
    """The Python of a new environment in which pip, or uv where it is, has installed these."""
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    subprocess.run([*pip, "--quiet", *packages], cwd=ROOT, check=True)
    return python


@pytest.mark.slow
def test_the_installed_package_trains_and_sweeps_without_the_sources(tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "-c", "constraints.txt", ".")
    project = tmp_path / "project"
    shutil.copytree(ROOT / "conf", project / "conf")
    shutil.copy(ROOT / "train.py", project)
    for settings in (["run=outputs/runs/a"], ["-m", "lr=0.1,0.01", "sweep.name=s"]):
        subprocess.run([python, "train.py", "trainer.max_epochs=1", *settings], cwd=project, check=True)
    shutil.rmtree(tmp_path / "env")  # gigabytes
    assert (project / "outputs/runs/a/run.html").is_file() and (project / "outputs/sweeps/s/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "constraints"), sorted(TOLD))
def test_it_installs_as_told_and_works(extra: str, constraints: str, tmp_path: Path) -> None:
    for_tests = ("pytest", "websockets")  # with which a browser is driven
    python = environment(tmp_path / "env", "-c", constraints, "-e", f".[{extra}]", *for_tests)
    tests = [*TESTS[extra], "-m", "not gpu", "-rs", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'tests'}"]
    done = subprocess.run(
        [python, "-m", "pytest", *tests],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    shutil.rmtree(tmp_path / "env")  # gigabytes
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout) and " skipped" not in done.stdout, done.stdout
