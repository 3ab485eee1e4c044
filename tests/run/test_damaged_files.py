"""Every file of a run, damaged: the run is resumed from its checkpoint, and whoever reads it gets one line."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from killing import COMMON, Killing, differences, outcome
from lithydra.errors import ConfigError, LithydraError
from lithydra.run import page
from lithydra.run.checkpoints import load, save
from lithydra.run.directory import RunDir
from lithydra.run.histograms import last_parameters
from lithydra.training.loading import load as load_module

PROMISE = "3. A damaged checkpoint is noticed"

SETTINGS = (
    *COMMON,
    "data.limit=128",
    "+callbacks.histograms={_target_: lithydra.callbacks.histograms.ParameterHistograms, bins: 8}",
    "+callbacks.layers={_target_: lithydra.callbacks.layer_statistics.LayerStatistics, num_images: 16}",
)
FILES = (
    *("config.yaml", "command.txt", "provenance.json", "status.json", "metrics.csv", "layers.csv", "histograms.npz"),
    *("train.log", ".owner", "checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/best.ckpt"),
)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00,\x80\n" * 50)


def wrong_type(path: Path) -> None:
    path.write_text('["a", 1]\n')


def wrong_values(path: Path) -> None:
    path.write_text('{"metrics": [1], "epoch": "a", "trainer": 3, "choices": 1}\n')


def directory(path: Path) -> None:
    path.mkdir()


def lost(path: Path) -> None: ...


DAMAGE = (cut, directory, garbage, empty, wrong_type, wrong_values, lost)
FAST = DAMAGE[:3]


@pytest.fixture(scope="module")
def finished(killing: Killing) -> RunDir:
    """Of two epochs, so that it has all three checkpoints."""
    run = RunDir(killing.outputs / "finished")
    killing.train(*SETTINGS, "trainer.max_epochs=2", f"run={run.path}")
    return run


@pytest.fixture(scope="module")
def resumed(killing: Killing, finished: RunDir) -> dict[str, Any]:
    """What the run gives when it is resumed undamaged."""
    run = RunDir(shutil.copytree(finished.path, killing.outputs / "resumed"))
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    return outcome(run)


def damaged(finished: RunDir, target: Path, name: str, damage: Callable[[Path], None]) -> RunDir:
    """A copy of the run with one file damaged."""
    run = RunDir(shutil.copytree(finished.path, target))
    content = (run.path / name).read_bytes()
    (run.path / name).unlink()
    if damage not in (directory, lost):
        (run.path / name).write_bytes(content)
    damage(run.path / name)
    return run


@pytest.mark.counted("damaged files that a run is resumed with", len(FAST))
@pytest.mark.parametrize("name", FILES)
def test_a_run_is_resumed_with_a_damaged_file(
    killing: Killing, finished: RunDir, resumed: dict[str, Any], tmp_path: Path, name: str
) -> None:
    resume_damaged(killing, finished, resumed, tmp_path, name, FAST)


@pytest.mark.slow
@pytest.mark.counted("damaged files that a run is resumed with", len(DAMAGE) - len(FAST))
@pytest.mark.parametrize("name", FILES)
def test_a_run_is_resumed_with_any_damage(
    killing: Killing, finished: RunDir, resumed: dict[str, Any], tmp_path: Path, name: str
) -> None:
    resume_damaged(killing, finished, resumed, tmp_path, name, DAMAGE[len(FAST) :])


def resume_damaged(
    killing: Killing,
    finished: RunDir,
    resumed: dict[str, Any],
    tmp_path: Path,
    name: str,
    damages: Sequence[Callable[[Path], None]],
) -> None:
    for damage in damages:
        run = damaged(finished, tmp_path / damage.__name__, name, damage)
        killing.train(f"resume={run.path}", "trainer.max_epochs=3")
        told = outcome(run)
        if name == "metrics.csv":  # rows that are lost are lost
            assert told["metrics.csv"][-1] == resumed["metrics.csv"][-1]
            del told["metrics.csv"]
        if name.endswith("best.ckpt"):  # the best of the epochs from there on
            told = {key: told[key] for key in ("weights", "optimizer", "metrics.csv")}
        assert differences({key: resumed[key] for key in told}, told) == []
        status = run.read_status()
        assert status["state"] == "finished" and status["epoch"] == 3


READERS: tuple[Callable[[RunDir], Any], ...] = (
    lambda run: load_module(run.path),
    lambda run: load_module(run.path, "last"),
    RunDir.read_status,
    RunDir.read_config,
    RunDir.read_provenance,
    RunDir.read_metrics,
    last_parameters,
    RunDir.read_layers,
    page.content,
)


@pytest.mark.counted("damaged files that are read, or refused in one line", len(DAMAGE) * len(READERS))
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused_in_one_line(finished: RunDir, tmp_path: Path, name: str) -> None:
    for damage in DAMAGE:
        run = damaged(finished, tmp_path / damage.__name__, name, damage)
        for read in READERS:
            try:
                read(run)
            except LithydraError as error:
                assert str(run.path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("place", [".lock", "checkpoints"])
def test_what_cannot_be_resumed_is_one_line(killing: Killing, finished: RunDir, tmp_path: Path, place: str) -> None:
    run = RunDir(shutil.copytree(finished.path, tmp_path / "run"))
    if place == ".lock":
        (run.path / ".lock").unlink()
        (run.path / ".lock").mkdir()
    else:
        shutil.rmtree(run.checkpoints)
        (run.path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"\.lock: cannot be locked|not a run directory"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=3")


def test_what_is_rebuilt_is_said(
    killing: Killing, finished: RunDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each file, and which epochs are lost."""
    run = damaged(finished, tmp_path / "run", "config.yaml", cut)
    for path in (run.provenance, run.histograms):
        cut(path)
    run.metrics.write_bytes(run.metrics.read_bytes()[:-30])  # in the middle of the last row
    with caplog.at_level(logging.WARNING, "lithydra"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    said = [message for message in caplog.messages if str(run.path) in message]
    assert sorted(said) == [
        next(m for m in said if m.startswith(f"{run.config}: c") and m.endswith("; taken from last.ckpt")),
        next(m for m in said if m.startswith(f"{run.histograms}: damaged (") and m.endswith("; it begins anew")),
        f"{run.metrics}: damaged (1 of 2 rows left out)",
        f"{run.metrics}: the rows of 1 of 2 epochs are lost: 2",
        f"{run.provenance}: damaged, set aside as provenance.json.damaged",
    ]
    assert yaml.safe_load(run.config.read_text())["trainer"]["max_epochs"] == 3


def test_a_foreign_checkpoint_is_not_resumed_from(killing: Killing, finished: RunDir, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(finished.path, tmp_path / "run"))
    save({"weights": 1}, run.last)
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert load(run.last)["record"]["progress"]["epochs"] == 3


def test_another_number_of_threads_is_said(
    killing: Killing,
    finished: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = RunDir(shutil.copytree(finished.path, tmp_path / "run"))
    killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert "Trained with" not in caplog.text
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    killing.train(f"resume={run.path}", "trainer.max_epochs=4")
    assert "Trained with 1 threads so far and with 3 from here" in caplog.text
    assert "OMP_NUM_THREADS=1 keeps the number" in caplog.text
