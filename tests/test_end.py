"""How a command ends: quickly, and with all that a usual end does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import QUIET, ROOT

CALLBACK = """
import atexit, threading, time
from pathlib import Path

import lightning as L

class Leaves(L.Callback):
    def __init__(self, folder):
        self.file = open(Path(folder) / "open", "w")  # never closed
        self.binary = open(Path(folder) / "binary", "wb")
        atexit.register(Path(folder, "hook").write_text, "called")

        def wait():
            time.sleep(1)
            Path(folder, "thread").write_text("ended")
        self.wait = wait

    def on_train_end(self, trainer, module):
        self.file.write("text")
        self.binary.write(b"bytes")
        threading.Thread(target=self.wait).start()

    def __del__(self):
        print("taken apart", flush=True)
"""


def train(folder: Path, data_dir: Path, *python: str) -> str:
    """Train one step with the callback; returns what is printed."""
    (folder / "leaving.py").write_text(CALLBACK)
    own = ("+callbacks.own._target_=leaving.Leaves", f"+callbacks.own.folder={folder}")
    command = [sys.executable, *python, str(ROOT / "train.py"), *QUIET, *own, "data.limit=100", "trainer.max_steps=1"]
    environment = {**os.environ, "LITHYDRA_DATA": str(data_dir), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr
    left = {name: (folder / name).read_text() for name in ("open", "binary", "hook", "thread")}
    assert left == {"open": "text", "binary": "bytes", "hook": "called", "thread": "ended"}
    return done.stdout


def test_threads_hooks_and_open_files_are_ended_and_objects_left(tmp_path: Path, data_dir: Path) -> None:
    assert "taken apart" not in train(tmp_path, data_dir)


@pytest.mark.slow
def test_a_profiler_gets_its_script_back(tmp_path: Path, data_dir: Path) -> None:
    assert "taken apart" in train(tmp_path, data_dir, "-m", "cProfile", "-o", str(tmp_path / "profile"))
    assert (tmp_path / "profile").stat().st_size > 0
