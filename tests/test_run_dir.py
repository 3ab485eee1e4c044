"""Promise 11: a run directory has one owner; and what run_dir.py writes is whole."""

from pathlib import Path

import pytest

from killing import in_child
from lithydra.errors import ConfigError
from lithydra.run_dir import RunDir

PROMISE = "11. A run directory has one owner"


def test_runs_of_the_same_second_get_different_directories(tmp_path: Path) -> None:
    paths = {RunDir.create(tmp_path, "digits_mlp").path for _ in range(5)}
    assert len(paths) == 5


def test_a_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    with run.own():
        assert in_child(run.own, log) == ConfigError.exit_code
    assert "in use by process" in log.read_text()


def test_the_lock_of_a_dead_owner_falls(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    assert in_child(run.own, log) == 0  # ends without a release
    with run.own():
        assert "in use" not in log.read_text()


def test_a_directory_with_a_run_is_not_trained_over(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.update_status(state="finished")
    with pytest.raises(ConfigError, match=r"holds a run already; resume="):
        RunDir.make(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such directory"), (".", "not a run directory")])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunDir.open(tmp_path / name)


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for epoch in (1, 2, 3):
        run.add_metrics({"epoch": epoch, "step": 10 * epoch, "train/loss": 0.5})
    run.keep_metrics(2)
    run.add_metrics({"epoch": 3, "step": 31})
    assert [(row["epoch"], row["step"]) for row in run.read_metrics()] == [("1", "10"), ("2", "20"), ("3", "31")]
