"""The words of a finished run in the terminal."""

from pathlib import Path

import pytest

from lithydra.run.directory import RunDir
from lithydra.run.table import print_results

TRAIN, VAL = {"train/loss": 0.5, "train/acc": 0.8}, {"val/loss": 0.6, "val/acc": 0.7}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"metrics": TRAIN}, "last of 3 epochs (no validation), 1.0 s in all\n"),
        ({"metrics": {**TRAIN, **VAL}}, "last of 3 epochs (not one is best), 1.0 s in all\n"),
        ({"metrics": {**TRAIN, **VAL}, "best_epoch": 2}, "best epoch 2 of 3, 1.0 s in all\n"),
    ],
)
def test_it_is_said_which_epoch_the_metrics_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: dict, words: str
) -> None:
    run = RunDir(tmp_path)
    run.write_config({"data": {}, "model": {}, "optimizer": {}, "trainer": {}})
    run.update_status(epoch=3, **status)
    print_results(run, 1.0, None)
    assert words in capsys.readouterr().out


def test_a_resumed_run_says_what_it_has_trained_in_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path)
    run.write_config({"data": {}, "model": {}, "optimizer": {}, "trainer": {}})
    run.update_status(epoch=2, metrics=TRAIN)
    for epoch in (1, 2):
        run.add_provenance({"choices": {}, "overrides": [], "hardware": {}})
        run.add_metrics({"epoch": epoch, "step": epoch, "seconds": 1900})
    print_results(run, 1.0, None)
    assert "1.0 s since it was resumed, trained 1 h 3 min in all\n" in capsys.readouterr().out
