"""All runs of a folder: which there are, what each row says, and what is done with them. Nothing is trained."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from by_hand import write_run
from lithydra.errors import ConfigError
from lithydra.run import index
from lithydra.run.directory import RunDir
from lithydra.run.listing import (
    TRASH,
    Listed,
    find_runs,
    label,
    listed,
    move_to_trash,
    read_labels,
    thinned,
)

MONITOR = "lr: 0.1\nmonitor:\n  metric: val/loss\n  mode: min\nseed: 0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """outputs/ with a run, a run of a sweep, and what is none."""
    write_run(tmp_path / "runs" / "one", 0.9)
    write_run(tmp_path / "sweeps" / "s" / "lr=0.1,seed=0", 0.8, state="failed", error="out of memory")
    (tmp_path / "sweeps" / "s" / "sweep.json").write_text("{}")
    (tmp_path / "sweeps" / "s" / "configs").mkdir()
    (tmp_path / "runs" / "one" / "checkpoints").mkdir()
    write_run(tmp_path / TRASH / "then" / "runs" / "old", 0.1)
    write_run(tmp_path / ".hidden" / "run", 0.1)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {os.path.relpath(run.path, folder) for run in find_runs(folder)}


def row(folder: Path, name: str) -> Listed:
    return listed(RunDir(folder / name), folder)


def test_runs_are_found_wherever_they_lie_but_in_the_trash(folder: Path) -> None:
    assert names(folder) == {"runs/one", "sweeps/s/lr=0.1,seed=0"}


def test_a_link_in_a_circle_is_not_followed(folder: Path) -> None:
    (folder / "runs" / "up").symlink_to(folder)
    assert names(folder) == {"runs/one", "sweeps/s/lr=0.1,seed=0"}


def test_a_row_says_what_the_directory_holds(folder: Path) -> None:
    run = RunDir(folder / "runs" / "one")
    run.config.write_text(MONITOR)
    choices = {"data": "mnist", "model": "cnn", "module": "none"}
    overrides = ["data=mnist", "lr=0.1", "run=outputs/runs/one", "paths.data=/somewhere", "hydra/launcher=local"]
    origin = {"choices": choices, "overrides": overrides, "hardware": {}}
    anew = ["lr=0.1", "resume=x", "trainer.max_epochs=4"]
    again = {"choices": {**choices, "model": "mlp"}, "overrides": anew, "hardware": {}}
    run.provenance.write_text(json.dumps({**origin, "resumed": [again]}))
    found = row(folder, "runs/one")
    assert (found.state, found.data, found.model) == ("finished", "mnist", "mlp")
    assert found.settings == ["data=mnist", "lr=0.1", "trainer.max_epochs=4"]  # not where it lies
    assert (found.metric, found.best_epoch, found.epoch, found.seconds) == ("val/loss", 2, 2, 3.0)
    assert found.curve == [0.1, 0.1] and found.metrics["test/acc"] == pytest.approx(0.1)
    assert found.sweep is None and row(folder, "sweeps/s/lr=0.1,seed=0").sweep == "sweeps/s"
    assert row(folder, "sweeps/s/lr=0.1,seed=0").error == "out of memory"


def test_a_module_of_ones_own_is_the_model(folder: Path) -> None:
    choices = {"data": "digits", "model": "mlp", "module": "autoencoder"}
    origin = {"choices": choices, "overrides": [], "hardware": {}}
    RunDir(folder / "runs" / "one").provenance.write_text(json.dumps(origin))
    assert row(folder, "runs/one").model == "autoencoder"


def test_a_run_whose_process_is_gone_was_killed(folder: Path) -> None:
    run = RunDir(folder / "runs" / "one")
    run.update_status(state="running")
    with FileLock(run.path / ".lock"):
        assert row(folder, "runs/one").state == "running"
    assert row(folder, "runs/one").state == "killed"
    assert run.read_status()["state"] == "running"  # a listing changes nothing


@pytest.mark.parametrize("file", ["status.json", "labels.json"])
def test_a_damaged_run_is_listed(folder: Path, file: str) -> None:
    (folder / "runs" / "one" / file).write_text("{")
    found = row(folder, "runs/one")
    assert found.state == "damaged" and file in str(found.error)


def test_tags_and_notes_are_put_on_and_taken_off(folder: Path) -> None:
    run = RunDir(folder / "runs" / "one")
    before = run.status.read_bytes()
    label(run, add=["good", "first"], note="look at the loss")
    label(run, add=["good", "paper"], remove=["first"])
    assert read_labels(run) == {"tags": ["good", "paper"], "note": "look at the loss"}
    label(run, note="")
    assert read_labels(run)["note"] == "" and run.status.read_bytes() == before


def test_the_trash_keeps_a_run_as_it_was(folder: Path) -> None:
    run = RunDir(folder / "runs" / "one")
    now = move_to_trash(run.path, folder)
    assert now.is_relative_to(folder / TRASH) and not run.path.exists()
    assert RunDir(now).read_status()["state"] == "finished"
    assert names(folder) == {"sweeps/s/lr=0.1,seed=0"}


def test_a_run_from_elsewhere_goes_to_the_trash_too(folder: Path) -> None:
    run = write_run(folder / "elsewhere" / "far", 0.5)
    now = move_to_trash(run.path, folder / "runs")
    assert now.resolve().is_relative_to((folder / "runs" / TRASH).resolve()) and now.name == "far"


def test_a_run_that_is_trained_is_not_deleted(folder: Path) -> None:
    run = RunDir(folder / "runs" / "one")
    with FileLock(run.path / ".lock"), pytest.raises(ConfigError, match="a process trains in it"):
        move_to_trash(run.path, folder)
    assert run.status.exists()


def test_a_long_curve_keeps_its_ends() -> None:
    values = [float(value) for value in range(1000)]
    assert len(thinned(values)) == 60 and thinned(values)[0] == 0 and thinned(values)[-1] == 999
    assert thinned([0.123456]) == [0.1235] and thinned([]) == []


def test_rows_are_sorted_by_when_they_began(folder: Path) -> None:
    rows = [Listed("a", "x", started=None), Listed("b", "x", started="2026-01-01T10:00:00+02:00")]
    index.write(folder, [*rows, Listed("c", "x", started="2026-01-01T09:00:00+00:00")])
    assert [*on_page(folder)] == ["c", "b", "a"]


def on_page(folder: Path) -> dict[str, str]:
    text = index.ROWS.search(index.path_in(folder).read_text())
    assert text is not None
    return {row["run"]: row["state"] for row in json.loads(text[1])}


def test_the_page_is_brought_up_to_date_by_the_runs_that_end(folder: Path) -> None:
    one = RunDir(folder / "runs" / "one")
    for damaged in ("", '<script type="application/json" id="runs">[1]</script>'):
        index.path_in(folder).write_text(damaged)
        index.update(folder, [one])  # there is no page of this version: all are read
    assert on_page(folder) == {"runs/one": "finished", "sweeps/s/lr=0.1,seed=0": "failed"}
    two = write_run(folder / "runs" / "two", 0.7)
    write_run(folder / "runs" / "unsaid", 0.7)
    two.update_status(state="running")
    with FileLock(two.path / ".lock"):
        index.update(folder, [two])
    assert on_page(folder)["runs/two"] == "running" and "runs/unsaid" not in on_page(folder)
    move_to_trash(one.path, folder)
    index.update(folder, [])  # says of nobody anything
    index.update(folder, [RunDir(folder / "sweeps" / "s" / "lr=0.1,seed=0")])
    assert on_page(folder) == {"runs/two": "killed", "sweeps/s/lr=0.1,seed=0": "failed"}


def test_a_run_elsewhere_and_a_folder_without_runs_leave_no_page(folder: Path, tmp_path: Path) -> None:
    index.update(folder / "runs", [RunDir(folder / "sweeps" / "s" / "lr=0.1,seed=0")])
    (tmp_path / "empty").mkdir()
    index.update(tmp_path / "empty", [RunDir(tmp_path / "empty" / "gone")])
    assert not index.path_in(folder / "runs").exists() and not index.path_in(tmp_path / "empty").exists()


def test_a_page_that_cannot_be_written_stops_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    index.path_in(folder).mkdir()
    index.update(folder, [RunDir(folder / "runs" / "one")])
    assert "not brought up to date" in caplog.text


def test_what_is_no_number_leaves_the_page_whole(folder: Path) -> None:
    """JSON has no NaN: the page's script would stop at it."""
    run = RunDir(folder / "runs" / "one")
    metrics = {"val/acc": float("nan"), "train/loss": float("inf")}
    run.add_metrics({"epoch": 3, "step": 3, "lr": 0.1, "training_seconds": 9, "seconds": 1.5, **metrics})
    run.update_status(metrics=metrics)
    index.write(folder, [row(folder, "runs/one")])
    index.update(folder, [run])
    text = index.ROWS.search(index.path_in(folder).read_text())
    assert text
    (told,) = json.loads(text[1], parse_constant=pytest.fail)
    assert told["metrics"] == {"val/acc": None, "train/loss": None}


def test_what_a_run_is_called_is_text_on_the_page(folder: Path) -> None:
    name = "</script><script>alert(1)</script>"
    index.write(folder, [Listed("runs/x", "finished", note=name)])
    assert name not in index.path_in(folder).read_text() and on_page(folder) == {"runs/x": "finished"}
