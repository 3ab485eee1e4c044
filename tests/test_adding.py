"""What docs/adding.md shows is written into a copy of the template, and passes the contracts there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

COPIED = ("src", "conf", "tests", "docs", "pyproject.toml", "train.py")
BLOCK = re.compile(r"^`((?:src|conf)/\S+)`\n\n```\w+\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown() -> list[tuple[str, str]]:
    """The files of docs/adding.md: path and text of each."""
    return BLOCK.findall((ROOT / "docs" / "adding.md").read_text())


def test_no_choice_that_the_docs_add_is_there_already() -> None:
    assert [name for name, _ in shown() if name.startswith("conf/") and (ROOT / name).exists()] == []


@pytest.mark.slow
def test_what_the_docs_add_passes_the_contracts(tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    added = shown()
    assert {Path(name).suffix for name, _ in added} == {".py", ".yaml"}
    for name, text in added:
        path = tmp_path / name
        path.write_text(f"{path.read_text()}\n\n{text}" if path.exists() else text)
    choices = [Path(name) for name, _ in added if name.startswith("conf/")]
    assert {"data", "model", "optimizer", "scheduler", "loss"} <= {path.parent.name for path in choices}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_contracts.py"),
            *("-k", " or ".join(f"{path.parent.name}/{path.stem}" for path in choices)),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= len(choices), done.stdout
