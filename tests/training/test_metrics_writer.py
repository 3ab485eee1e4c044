"""Seconds and speed in metrics.csv, by a clock on which each batch takes a second."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import checkpoint
from killing import COMMON, Killing
from lithydra.data.loaders import TrainingBatch
from lithydra.metrics import TrainedBatch
from lithydra.run import checkpoints
from lithydra.run.directory import RunDir
from lithydra.training import metrics_writer
from lithydra.training.engine import GradientClassifier


class Clock:
    """Counts the batches that runs have trained; stops one at the batch `stop` of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.stop = 0, 0
        train = GradientClassifier._train

        def timed(module: GradientClassifier, batch: TrainingBatch, *more: Any, **options: Any) -> TrainedBatch:
            if module._trainer is not None:  # else it is the dry run's copy
                self.seconds += 1
                if self.seconds == self.stop:
                    raise KeyError("stopped")
            return train(module, batch, *more, **options)

        monkeypatch.setattr(GradientClassifier, "_train", timed)
        monkeypatch.setattr(metrics_writer, "time", SimpleNamespace(perf_counter=lambda: float(self.seconds)))


def times(run: RunDir) -> list[tuple[float, float]]:
    return [(float(row["training_seconds"]), float(row["seconds"])) for row in run.read_metrics()]


SETTINGS = (*COMMON, "trainer.max_epochs=2", "trainer.steps_per_execution=2", "checkpoint.every_n_steps=2")


@pytest.mark.parametrize("older", [False, True], ids=["", "of an older run"])
def test_an_epoch_that_was_stopped_has_all_of_its_seconds(
    killing: Killing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """15 batches an epoch, of 230 images; stopped with 9 of them saved, and another one trained."""
    clock, run = Clock(monkeypatch), RunDir(tmp_path / "run")
    clock.stop = 26
    with pytest.raises(KeyError, match="stopped"):
        killing.train(*SETTINGS, f"run={run.path}")
    if older:
        content = checkpoint(run.last)
        (state,) = (state for name, state in content["callbacks"].items() if "MetricsWriter" in name)
        state["training_seconds"] += state.pop("epoch_seconds")
        checkpoints.save(content, run.last)
    clock.stop, speeds = 0, []
    write = GradientClassifier.write
    monkeypatch.setattr(
        GradientClassifier,
        "write",
        lambda module, values, step: (speeds.append(values.get("images_per_second")), write(module, values, step)),
    )
    killing.train(f"resume={run.path}")
    assert times(run) == ([(15, 15), (30, 15)] if not older else [(15, 15), (30, 6)])
    (speed,) = filter(None, speeds)
    assert speed == (230 / 15 if not older else 230 / 6)
