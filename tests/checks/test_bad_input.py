"""Promise 10 on the real command line: bad input costs one line and exit code 2, leaves no trace, and is cheap."""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from bad_input import CASES, FAST
from conftest import ROOT, write_npz
from killing import COMMON, Killing, in_child
from lithydra import cli

PROMISE = "10. Bad input is refused before training"

SECONDS, SECONDS_WITH_TORCH = 2.0, 5.0  # of one core


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A folder of runs, data sets and images to name in command lines."""
    folder = tmp_path_factory.mktemp("things")
    killing = Killing(data_dir, folder)
    small = {"num_classes": 3, "shape": (8, 8), "num_train": 60, "num_test": 30}
    for name, changes in {
        "three": {},
        "four": {"num_classes": 4},
        "larger": {"shape": (9, 9)},
        "color": {"shape": (8, 8, 3)},
    }.items():
        write_npz(folder / f"{name}.npz", **{**small, **changes})
    for name in ("mnist", "fashion_mnist"):
        (folder / "both").mkdir(exist_ok=True)
        write_npz(folder / "both" / f"{name}.npz", num_classes=10, shape=(28, 28), num_train=200, num_test=50)
    _bad_arrays(folder)
    _bad_images(folder, data_dir)
    one_epoch = (*COMMON, "trainer.max_epochs=1")
    assert killing.child(*one_epoch, "regularizer=l2", f"run={folder / 'run'}") == 0
    npz = ("data=npz", f"data.path={folder / 'three.npz'}", "data.val_fraction=0", "data.limit=null")
    assert killing.child(*one_epoch, *npz, f"run={folder / 'run_npz'}") == 0
    fashion = ("data=fashion_mnist", f"paths.data={folder / 'both'}", "data.limit=null")
    assert killing.child(*one_epoch, *fashion, f"run={folder / 'fashion'}") == 0
    shutil.copytree(folder / "run", folder / "untrained", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "torn").mkdir()
    (folder / "torn" / "config.yaml").write_text("lr: 0.1\n")
    return folder


def _bad_arrays(folder: Path) -> None:
    with np.load(folder / "three.npz") as file:
        good = dict(file)
    label77 = good["y_train"].copy()
    label77[3] = 77
    nan = good["x_train"] / 255
    nan[3, 1, 1] = np.nan
    changes = {
        "single": {"y_train": good["y_train"] * 0, "y_test": good["y_test"] * 0},
        "nan": {"x_train": nan},
        "label77": {"y_train": label77},
        "labels": {"x_train": np.resize(good["x_train"], (20_000, 8, 8)), "y_train": np.arange(100) % 3},
        "zeroed": {"x_train": good["x_train"] * 0},
    }
    for name, changed in changes.items():
        np.savez(folder / f"{name}.npz", **{**good, **changed})
    data = bytearray((folder / "three.npz").read_bytes())
    data[data.find(good["x_train"].tobytes()) + 9] ^= 4
    (folder / "damaged.npz").write_bytes(data)


def _bad_images(folder: Path, data_dir: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "damaged_digits").mkdir()
    data = bytearray((data_dir / "digits.npz").read_bytes())
    data[5000] ^= 4
    (folder / "damaged_digits" / "digits.npz").write_bytes(data)
    Image.new("L", (8, 8), 70).save(folder / "grey.png")
    (folder / "text.png").write_text("text")
    for name in ("hollow", "textual"):
        for label in ("a", "b"):
            (folder / name / label).mkdir(parents=True)
            for number in range(4):
                if (name, label) != ("hollow", "b"):
                    Image.new("L", (8, 8), 30 * number).save(folder / name / label / f"{number}.png")
    (folder / "textual" / "a" / "text.png").write_text("text")


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def arguments(line: str, things: Path, data_dir: Path) -> list[str]:
    given = shlex.split(line.replace("T/", f"{things}/"))
    return given if "paths.data=" in line else [*given, f"paths.data={data_dir}"]


def assert_one_line(said: str, message: str) -> None:
    (line,) = [line for line in said.splitlines() if line.strip()]
    assert line.startswith("error: ") and message in line, line


@pytest.mark.counted("bad inputs refused: one line, exit 2, no trace")
@pytest.mark.parametrize(("verb", "line", "message", "early"), FAST)
def test_bad_input_is_refused(
    things: Path, data_dir: Path, tmp_path: Path, verb: str, line: str, message: str, early: bool
) -> None:
    """Through the command line's own entry point, in a forked process that has torch already."""
    if "accelerator=gpu" in line and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    before, folder = contents(things), tmp_path / "work"
    folder.mkdir()

    def task() -> None:
        os.chdir(folder)
        GlobalHydra.instance().clear()
        sys.argv = [f"{verb}.py", *arguments(line, things, data_dir)]
        cli.main(verb)

    assert in_child(task, tmp_path / "log") == 2, (tmp_path / "log").read_text()
    assert_one_line((tmp_path / "log").read_text(), message)
    assert not list(folder.iterdir()) and contents(things) == before


@pytest.mark.slow
@pytest.mark.counted("bad inputs refused by real processes, in time")
@pytest.mark.parametrize(("verb", "line", "message", "early"), CASES)
def test_bad_input_is_refused_in_time(
    things: Path,
    data_dir: Path,
    tmp_path: Path,
    import_seconds: float,
    verb: str,
    line: str,
    message: str,
    early: bool,
) -> None:
    if "accelerator=gpu" in line and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    before = contents(things)
    script = ROOT / ("train.py" if verb == "train" else f"scripts/{verb}.py")
    watched = ("-X", "importtime") if early else ()
    command = [sys.executable, *watched, str(script), *arguments(line, things, data_dir)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LITHYDRA", "HYDRA"))}
    used = _child_seconds()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    seconds = _child_seconds() - used
    imports = set(re.findall(r"import time:.*\| +(\S+)", done.stderr))
    said = [row for row in done.stderr.splitlines() if not row.startswith("import time:")]
    assert done.returncode == 2, done.stderr[-2000:]
    assert_one_line("\n".join(said), message)
    assert done.stdout == ""
    assert not list(tmp_path.iterdir()) and contents(things) == before
    assert not (early and imports & {"torch", "lightning", "numpy"})
    assert seconds < (SECONDS if early else max(SECONDS_WITH_TORCH, 2 * import_seconds))


@pytest.fixture(scope="module")
def import_seconds() -> float:
    """What the libraries take by themselves: on a slow or busy machine, more than the limit."""
    used = _child_seconds()
    subprocess.run([sys.executable, "-c", "import torch, lightning, torchvision, hydra"], check=True)
    return _child_seconds() - used


def _child_seconds() -> float:
    """Processor time of all ended child processes: what a line costs on a machine that has nothing else to do."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 80
