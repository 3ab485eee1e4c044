"""benchmarks/on_gpu.py on a CPU: whether it runs to its end. Its figures mean nothing there."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT

MEASURED = {
    "epoch of mnist_mlp",
    "epoch of cifar_cnn, bf16",
    "cifar10_94, seed 0",
    "jobs of a sweep",
    "augmentation",
}


@pytest.mark.slow
def test_a_quick_pass_measures_everything(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(2200) % 10
    for name, shape in (("mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        images = generator.integers(0, 256, (2200, *shape), dtype=np.uint8)
        (x_train, x_test), (y_train, y_test) = (np.split(array, [2000]) for array in (images, labels))
        np.savez(tmp_path / f"{name}.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    command = [sys.executable, str(ROOT / "benchmarks/on_gpu.py"), "--quick", "--device", "cpu", "--seconds", "900"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path), "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["failed"] == [] and done.returncode == 0, done.stdout + done.stderr
    assert {figure["what"] for figure in record["figures"]} == MEASURED
    assert record["quick"] and json.loads(done.stdout.splitlines()[-1])["not measured"] == 0
