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


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "constraints"), sorted(TOLD))
def test_it_installs_as_told_and_works(extra: str, constraints: str, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    for_tests = ("pytest", "websockets")  # with which a browser is driven
    subprocess.run([*pip, "--quiet", "-c", constraints, "-e", f".[{extra}]", *for_tests], cwd=ROOT, check=True)
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
