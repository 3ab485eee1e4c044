"""Promise 3: a damaged checkpoint is noticed, and a run goes on from the one before it."""

import random
from pathlib import Path

import pytest
import torch

from killing import COMMON, SETTINGS, Killing, SignalAt, differences, outcome
from lithydra.run.checkpoints import DamagedCheckpoint, load, save
from lithydra.run.directory import RunDir
from lithydra.training.loading import load as load_module

PROMISE = "3. A damaged checkpoint is noticed"

CONTENT = {"weights": torch.arange(3000.0), "plain": {"epoch": 3, "names": ["a", "b"], "score": None}}


def flip_a_bit(path: Path, draw: random.Random) -> None:
    """The file is written anew, so that what is hard-linked to it stays whole."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.unlink()
    path.write_bytes(data)


@pytest.mark.counted("single-bit flips caught", 50)
@pytest.mark.parametrize("seed", range(4))
def test_every_bit_flip_is_noticed(tmp_path: Path, seed: int) -> None:
    path, draw = tmp_path / "a.ckpt", random.Random(seed)
    for _ in range(50):
        save(CONTENT, path)
        flip_a_bit(path, draw)
        with pytest.raises(DamagedCheckpoint, match=r"a\.ckpt: damaged \(its checksum does not match\)"):
            load(path)


@pytest.mark.counted("truncations caught")
@pytest.mark.parametrize("keep", [0, 1, 10, 48, 500, 0.5, 0.9, -1])
def test_every_truncation_is_noticed(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(DamagedCheckpoint):
        load(path)


@pytest.mark.counted("negative controls that failed as they must")
def test_plain_torch_load_does_not_notice(tmp_path: Path) -> None:
    """Without the checksum, a flipped weight goes unseen."""
    path = tmp_path / "a.ckpt"
    save(CONTENT, path)
    data = bytearray(path.read_bytes())
    at = data.index(torch.tensor([1234.0]).numpy().tobytes())
    data[at + 1] ^= 1
    path.write_bytes(data)
    assert not torch.equal(torch.load(path, weights_only=True)["weights"], CONTENT["weights"])


def test_a_run_falls_back_to_the_checkpoint_before_and_ends_the_same(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    log = killing.outputs / "log"
    assert killing.child(*COMMON, *SETTINGS["steps"], f"run={run.path}", kill=SignalAt("batch", 34)) == -9
    flip_a_bit(run.last, random.Random(0))
    # Killed again, just when the one before is to take its place.
    assert killing.child(f"resume={run.path}", kill=SignalAt("before rename", 1)) == -9, log.read_text()
    said = run.log.read_text()
    assert "last.ckpt: damaged (its checksum does not match); trying the one before it" in said
    assert (run.checkpoints / "last.ckpt.damaged").exists()
    assert killing.child(f"resume={run.path}") == 0, log.read_text()
    assert "(previous.ckpt)" in run.log.read_text()
    assert differences(killing.reference("steps"), outcome(run)) == []


def test_a_run_whose_every_checkpoint_is_damaged_is_refused(killing: Killing, tmp_path: Path) -> None:
    run, log = RunDir(tmp_path / "run"), killing.outputs / "log"
    assert killing.child(*COMMON, *SETTINGS["steps"], f"run={run.path}", kill=SignalAt("batch", 34)) == -9
    for path in run.checkpoints.glob("*.ckpt"):
        flip_a_bit(path, random.Random(1))
    assert killing.child(f"resume={run.path}") == DamagedCheckpoint.exit_code
    assert "DamagedCheckpoint: " in log.read_text()


def test_evaluating_a_damaged_best_checkpoint_is_refused(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*COMMON, "trainer.max_epochs=1", f"run={run.path}")
    flip_a_bit(run.best, random.Random(0))
    with pytest.raises(DamagedCheckpoint, match=r"best\.ckpt: damaged .*; beside it lie last$"):
        load_module(run.path)
    assert load_module(run.path, "last").record["data"]["name"] == "digits"


def test_a_checkpoint_in_use_is_never_the_only_one(tmp_path: Path) -> None:
    """While a new checkpoint is written, two older ones with different content are there."""
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for epoch in range(3):
        save({"epoch": epoch}, last, previous)
    assert (load(last)["epoch"], load(previous)["epoch"]) == (2, 1)
