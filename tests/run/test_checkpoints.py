"""Promise 2: a checkpoint is whole or absent, whenever a run is killed and however full the disk is."""

import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from killing import COMMON, Killing, SignalAt, in_child
from lithydra.errors import LithydraError
from lithydra.files import remove_unfinished
from lithydra.run import checkpoints
from lithydra.run.checkpoints import link, load, save
from lithydra.run.directory import RunDir
from lithydra.run.lifecycle import tracked
from lithydra.run.locks import own

PROMISE = "2. Checkpoints are never torn"

CONTENT = {"weights": torch.arange(3000.0), "plain": {"epoch": 3, "names": ["a", "b"], "score": None}}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(CONTENT, tmp_path / "a.ckpt")
    loaded = load(tmp_path / "a.ckpt")
    assert torch.equal(loaded["weights"], CONTENT["weights"])
    assert loaded["plain"] == CONTENT["plain"]


def test_torch_reads_the_file_by_itself(tmp_path: Path) -> None:
    save(CONTENT, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert torch.equal(loaded["weights"], CONTENT["weights"])


Save = Callable[[dict[str, Any], Path], None]


def saves_killed_at_random(save_again: Save, folder: Path, trials: int, seed: int) -> int:
    """Kill a process that saves over and over, at a random moment; returns how often the file was unreadable after."""
    path = folder / "last.ckpt"
    draw, torn = random.Random(seed), 0
    for _ in range(trials):
        save_again(CONTENT, path)
        process = os.fork()
        if process == 0:
            while True:
                save_again(CONTENT, path)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        try:
            torn += not torch.equal(torch.load(path, weights_only=True)["weights"], CONTENT["weights"])
        except Exception:  # a torn file makes torch.load raise nearly anything
            torn += 1
    return torn


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TMPDIR on another file system than the checkpoint's."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system at /dev/shm")
    monkeypatch.setenv("TMPDIR", str(memory))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is remembered otherwise


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "trials",
    [
        pytest.param(20, marks=pytest.mark.counted("kills while saving, TMPDIR on another file system", 20)),
        pytest.param(
            100, marks=[pytest.mark.slow, pytest.mark.counted("kills while saving, TMPDIR on another file system", 100)]
        ),
    ],
)
def test_a_kill_while_saving_tears_nothing(tmp_path: Path, trials: int) -> None:
    assert saves_killed_at_random(save, tmp_path, trials, seed=trials) == 0
    load(tmp_path / "last.ckpt")
    remove_unfinished(tmp_path)  # as the next owner of a run does
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.counted("negative controls that failed as they must")
def test_a_kill_while_torch_saves_in_place_tears_the_file(tmp_path: Path) -> None:
    assert saves_killed_at_random(lambda content, path: torch.save(content, path), tmp_path, 20, seed=0) > 0


def test_what_a_killed_process_was_writing_is_swept(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.checkpoints.mkdir()
    stale = [
        run.checkpoints / ".last.ckpt.123.tmp",
        run.checkpoints / ".best.ckpt.tmp",
        tmp_path / ".status.json.9.tmp",
    ]
    for path in stale:
        path.write_bytes(b"half of")
    with own(run), tracked(run, {"paths": {"outputs": str(tmp_path / "outputs")}}):
        assert not any(path.exists() for path in stale)


def limit_files(num_bytes: int) -> None:
    """No file of this (forked) process grows beyond `num_bytes`, as on a full disk: an error of write(), no signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_full_disk_leaves_the_old_file_whole_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(CONTENT, path)
    log = tmp_path / "log"

    def task() -> None:
        limit_files(5000)
        save({"weights": torch.zeros(100_000)}, path)

    assert in_child(task, log) == LithydraError.exit_code
    assert f"{path}: the checkpoint could not be written" in log.read_text()
    assert torch.equal(load(path)["weights"], CONTENT["weights"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "log"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs takes root, and leave to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_leaves_the_old_file_whole(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    save(CONTENT, path)
    with pytest.raises(LithydraError, match=r"/last\.ckpt: the checkpoint could not be written"):
        save({"weights": torch.zeros(100_000)}, path)
    assert torch.equal(load(path)["weights"], CONTENT["weights"])
    assert [p.name for p in small_disk.iterdir()] == ["last.ckpt"]


def test_a_run_on_a_full_disk_says_so_and_goes_on_with_room(data_dir: Path, tmp_path: Path) -> None:
    """The weights of the first epoch fit; those of the second, beside them, do not."""
    killing, run = Killing(data_dir, tmp_path), RunDir(tmp_path / "run")
    settings = (*COMMON, "model.hidden=[1600]", f"run={run.path}")  # beside which provenance.json is small
    assert killing.child(*settings, kill=SignalAt("epoch end", 2)) == -9
    size = run.last.stat().st_size
    before = run.last.read_bytes()

    def task() -> None:
        limit_files(size // 2)
        killing.train(f"resume={run.path}")

    assert in_child(task, tmp_path / "log") == LithydraError.exit_code
    assert f"{run.last}: the checkpoint could not be written" in run.read_status()["error"]
    assert run.read_status()["state"] == "failed"
    assert run.last.read_bytes() == before
    assert not list(run.checkpoints.glob(".*"))
    assert killing.child(f"resume={run.path}") == 0
    assert run.read_status()["state"] == "finished"


@pytest.mark.parametrize("name", ["status.json", "metrics.csv"])
def test_other_files_that_cannot_be_written_are_named(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path)
    run.update_status(state="running")
    for epoch in range(1, 301):
        run.add_metrics({"epoch": epoch})

    def task() -> None:
        limit_files(run.metrics.stat().st_size + 4)  # a part of the row fits
        if name == "metrics.csv":
            run.add_metrics({"epoch": 30_000})
        else:
            run.update_status(error="x" * 10_000)

    assert in_child(task, tmp_path / "log") == LithydraError.exit_code
    assert f"LithydraError: {tmp_path / name}: cannot be written: File too large" in (tmp_path / "log").read_text()
    assert run.read_status() == {"state": "running"}
    run.keep_metrics(30_000)
    assert [row["epoch"] for row in run.read_metrics()] == [str(epoch) for epoch in range(1, 301)]


def test_a_link_keeps_the_old_content_when_the_source_is_replaced(tmp_path: Path) -> None:
    save({"epoch": 1}, tmp_path / "last.ckpt")
    link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    save({"epoch": 2}, tmp_path / "last.ckpt")
    assert load(tmp_path / "best.ckpt") == {"epoch": 1}


def test_a_link_is_a_copy_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(checkpoints.os, "link", refused)
    save({"epoch": 1}, tmp_path / "last.ckpt")
    link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert load(tmp_path / "best.ckpt") == {"epoch": 1}
