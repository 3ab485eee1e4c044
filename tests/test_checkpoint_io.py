"""Promises 2 and 3: a checkpoint is whole or absent, and damage is noticed."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from killing import in_child
from lithydra import checkpoint_io
from lithydra.checkpoint_io import DamagedCheckpoint, link, load, save
from lithydra.errors import LithydraError

PROMISE = "2. Checkpoints are never torn, damage is noticed"

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


@pytest.mark.parametrize("seed", range(4))
def test_every_bit_flip_is_noticed(tmp_path: Path, seed: int, record_property: Callable[[str, int], None]) -> None:
    record_property("cases", 50)
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    whole = path.read_bytes()
    draw = random.Random(seed)
    for _ in range(50):
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint, match=r"a\.ckpt: damaged \(its checksum does not match\)"):
            load(path)


@pytest.mark.parametrize("keep", [0, 1, 10, 48, 500, 0.5, 0.9, -1])
def test_every_truncation_is_noticed(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DamagedCheckpoint):
        load(path)


def test_plain_torch_load_does_not_notice(tmp_path: Path) -> None:
    """The negative control: without the checksum, a flipped weight goes unseen."""
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.tensor([1234.0]).numpy().tobytes())
    data[at + 1] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], CONTENT["weights"])


def saves_killed_at_random(folder: Path, trials: int, seed: int) -> int:
    """Kill a process that saves over and over, at a random moment; returns how often the file was unreadable after."""
    path = folder / "last.ckpt"
    save(CONTENT, path)
    draw, torn = random.Random(seed), 0
    for _ in range(trials):
        process = os.fork()
        if process == 0:
            while True:
                save(CONTENT, path)
        time.sleep(draw.uniform(0.0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        try:
            load(path)
        except LithydraError:
            torn += 1
    return torn


@pytest.mark.parametrize("trials", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_while_saving_tears_nothing(
    tmp_path: Path, trials: int, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, int], None]
) -> None:
    record_property("cases", trials)
    if Path("/dev/shm").is_dir():
        monkeypatch.setenv("TMPDIR", "/dev/shm")  # another file system than the target's
    assert saves_killed_at_random(tmp_path, trials, seed=trials) == 0
    leftovers = [p for p in tmp_path.iterdir() if p.name not in ("last.ckpt", ".last.ckpt.tmp")]
    assert leftovers == []  # the one temporary name is used again by the next save


def test_a_full_disk_leaves_the_old_file_whole_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(CONTENT, path)
    log = tmp_path / "log"

    def task() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: an error of write(), not a signal
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        save({"weights": torch.zeros(100_000)}, path)

    assert in_child(task, log) == LithydraError.exit_code
    assert f"{path}: the checkpoint could not be written" in log.read_text()
    assert torch.equal(load(path)["weights"], CONTENT["weights"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "log"]


def test_a_link_keeps_the_old_content_when_the_source_is_replaced(tmp_path: Path) -> None:
    save({"epoch": 1}, tmp_path / "last.ckpt")
    link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    save({"epoch": 2}, tmp_path / "last.ckpt")
    assert load(tmp_path / "best.ckpt") == {"epoch": 1}


def test_a_link_is_a_copy_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise PermissionError

    monkeypatch.setattr(checkpoint_io.os, "link", refused)
    save({"epoch": 1}, tmp_path / "last.ckpt")
    link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert load(tmp_path / "best.ckpt") == {"epoch": 1}
