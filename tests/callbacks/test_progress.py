"""The line that each epoch leaves in the terminal."""

import re

import pytest

from conftest import SMALL, RunTrain

# One of them has a hyphen, at which the line is not to be broken either.
NAMED = "+metrics.in-classes={_target_: torchmetrics.classification.MulticlassF1Score}"
METRICS = ("metrics=[accuracy]", NAMED, "train_metrics=true")


def test_a_long_line_is_broken_between_the_splits(
    run_train: RunTrain, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "90")
    run_train(*SMALL, *METRICS, "callbacks=progress_bar")
    printed = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    lines = [line for line in printed.splitlines() if re.match(r"epoch +\d+  |  +val loss", line)]
    starts = ["epoch   1  train loss", " " * 11 + "val loss", "epoch   2  train loss", " " * 11 + "val loss"]
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert max(map(len, lines)) <= 90


def test_what_is_not_a_terminal_gets_one_line_an_epoch(run_train: RunTrain, capsys: pytest.CaptureFixture[str]) -> None:
    run_train(*SMALL, *METRICS, "callbacks=progress_bar")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2 and all("val loss" in line and len(line) > 90 for line in lines)
