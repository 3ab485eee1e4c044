"""Promise 14: status.json, the table at the end and HPARAMS of a resumed run are those of the resumed run."""

import json
import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from test_train import evaluated

from killing import COMMON, Killing, SignalAt
from lithydra.run import page
from lithydra.run.checkpoints import load
from lithydra.run.directory import RunDir

PROMISE = "14. What a run says is of that run"

# A net whose every epoch gives other metrics, without dropout or BatchNorm, so that a checkpoint is evaluated by hand.
PLAIN = (*COMMON, "model.dropout=0", "model.batch_norm=false", "lr=0.01")
NO_VALIDATION = (*PLAIN, "data.val_fraction=0")


def assert_tells_of_itself(run: RunDir) -> None:
    """status.json says what metrics.csv and the checkpoint that stands for the run give."""
    status, rows = run.read_status(), run.read_metrics()
    metrics = status["metrics"]
    row = rows[status.get("best_epoch", len(rows)) - 1]
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert row[name] == (str(metrics[name]) if name in metrics else "")
    if "test/loss" in metrics:
        _, loss, accuracy = evaluated(run.checkpoint(), run, "test")
        assert metrics["test/loss"] == pytest.approx(loss, rel=1e-5)
        assert metrics["test/acc"] == pytest.approx(accuracy, rel=1e-6)
    assert (status["epoch"], status["step"]) == (int(rows[-1]["epoch"]), int(rows[-1]["step"]))


@pytest.mark.counted("resumed runs that tell of themselves")
@pytest.mark.parametrize("validation", [NO_VALIDATION, PLAIN], ids=["no validation", "validation"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("trainer.max_epochs=1", "trainer.max_epochs=3"),
        ("trainer.max_steps=20", "trainer.max_steps=40"),
        ("trainer.max_epochs=1", "trainer.max_epochs=2 lr=1.0 resume_anyway=true"),
        ("trainer.max_epochs=1", "trainer.max_epochs=2 test=false"),
    ],
)
def test_a_resumed_run_tells_of_itself(
    killing: Killing, tmp_path: Path, validation: tuple[str, ...], first: str, then: str
) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*validation, *first.split(), f"run={run.path}")
    before = run.read_status()["metrics"]
    killing.train(f"resume={run.path}", *then.split())
    assert_tells_of_itself(run)
    after = run.read_status()["metrics"]
    assert after["train/loss"] != before["train/loss"] or run.read_status().get("best_epoch") == 1
    assert ("test/loss" in after) == ("test=false" not in then)


@pytest.mark.counted("resumed runs that tell of themselves")
@pytest.mark.parametrize("validation", [NO_VALIDATION, PLAIN], ids=["no validation", "validation"])
def test_a_run_killed_in_its_test_tells_of_itself(
    killing: Killing, tmp_path: Path, validation: tuple[str, ...]
) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*validation, "trainer.max_epochs=1", f"run={run.path}")
    assert killing.child(f"resume={run.path}", "trainer.max_epochs=2", kill=SignalAt("test", 1)) == -9
    assert "test/loss" not in run.read_status()["metrics"]
    assert_tells_of_itself(run)
    assert killing.child(f"resume={run.path}") == 0
    assert_tells_of_itself(run)
    assert run.read_status()["epoch"] == 2


def test_a_run_killed_in_an_epoch_tells_of_the_last_whole_one(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*NO_VALIDATION, "trainer.max_epochs=2", f"run={run.path}")
    kill = SignalAt("batch", 8)
    assert killing.child(f"resume={run.path}", "trainer.max_epochs=3", "checkpoint.every_n_steps=2", kill=kill) == -9
    assert_tells_of_itself(run)
    # Killed before the first epoch of this time has ended: what the first time found is not told again.
    assert killing.child(f"resume={run.path}", kill=SignalAt("batch", 1)) == -9
    assert_tells_of_itself(run)
    assert "test/loss" not in run.read_status()["metrics"]


def test_another_monitored_metric_is_not_compared_with_the_first(killing: Killing, tmp_path: Path) -> None:
    """A loss of 2 is no better and no worse than an accuracy of 0.3."""
    run = RunDir(tmp_path / "run")
    killing.train(*PLAIN, "trainer.max_epochs=1", f"run={run.path}")
    killing.train(
        f"resume={run.path}",
        "trainer.max_epochs=3",
        "monitor.metric=val/loss",
        "monitor.mode=min",
        "resume_anyway=true",
    )
    losses = [float(row["val/loss"]) for row in run.read_metrics()]
    assert run.read_status()["best_epoch"] == losses.index(min(losses)) + 1
    assert_tells_of_itself(run)


@pytest.mark.parametrize("damage", ["lost", "cut", "of another epoch"])
def test_a_best_checkpoint_that_is_lost_stands_for_nothing(
    killing: Killing, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*PLAIN, "lr=1e-9", "monitor.metric=val/loss", "monitor.mode=min", f"run={run.path}")
    settings = ("monitor.metric=val/loss", "monitor.mode=min")
    run = RunDir(tmp_path / "again")
    killing.train(*PLAIN, *settings, "trainer.max_epochs=1", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=2", "lr=10", "resume_anyway=true")  # worse
    assert run.read_status()["best_epoch"] == 1
    content = run.best.read_bytes()
    run.best.unlink()
    if damage == "cut":
        run.best.write_bytes(content[:1000])
    elif damage == "of another epoch":
        run.best.write_bytes(run.last.read_bytes())
    with caplog.at_level(logging.WARNING, "lithydra"):
        killing.train(f"resume={run.path}", "trainer.max_epochs=3")
    assert "best.ckpt does not hold epoch 1" in caplog.text
    assert run.read_status()["best_epoch"] == 3
    assert load(run.best)["record"]["progress"]["epochs"] == 3
    assert_tells_of_itself(run)


def test_hparams_of_a_resumed_run_are_its_own(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    settings = tuple(s for s in NO_VALIDATION if s != "logger=none")
    killing.train(*settings, "optimizer=sgd", "trainer.max_epochs=1", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=2", "loss.label_smoothing=0.1", "resume_anyway=true")
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    metrics = run.read_status()["metrics"]
    for name, value in metrics.items():
        assert events.Scalars(f"with_best/{name}")[-1].value == pytest.approx(value)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    row = plugin_data_pb2.HParamsPluginData.FromString(content)  # pyright: ignore[reportAttributeAccessIssue]
    hparams = row.session_start_info.hparams
    assert hparams["optimizer"].string_value == "sgd"
    assert hparams["model.hidden"].string_value == "[16]"
    assert hparams["loss.label_smoothing"].number_value == 0.1
    origin = json.loads(run.provenance.read_text())
    assert origin["resumed"][0]["choices"]["optimizer"] == "sgd"


def test_the_page_of_a_resumed_run_shows_what_it_went_on_with(killing: Killing, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    killing.train(*PLAIN, "optimizer=sgd", "regularizer=l1", "trainer.max_epochs=1", f"run={run.path}")
    killing.train(f"resume={run.path}", "trainer.max_epochs=2", "scheduler=step", "resume_anyway=true")
    killing.train(f"resume={run.path}", "trainer.max_epochs=3", "regularizer=l2", "resume_anyway=true")
    settings = page.content(run)["settings"]
    assert [settings[group] for group in ("optimizer", "scheduler", "regularizer")] == ["sgd", "step", "l2"]
    assert settings["max epochs"] == 3
