"""A sweep that goes by a metric of a person's choice: its results, its report, and what compares its runs."""

from pathlib import Path
from typing import Any

import pytest

import lithydra
from lithydra.verbs.compare import results_table
from sweeping import QUICK, Done, sweep

SETTINGS = ("lr=0.1,0.001", "metrics=[accuracy,macro_f1]", "monitor.metric=val/macro_f1", *QUICK)


@pytest.fixture(scope="module")
def done(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    finished = sweep(*SETTINGS, folder=tmp_path_factory.mktemp("f1"), data_dir=data_dir)
    assert finished.code == 0, finished.output
    return finished


def test_it_is_the_objective(done: Done) -> None:
    assert done.sweep.read().objective == {"metric": "val/macro_f1", "mode": "max"}
    frame: Any = lithydra.results(done.sweep.path)
    assert list(frame.columns)[3:6] == ["val/acc", "val/loss", "val/macro_f1"] and "test/macro_f1" in frame
    assert "best by val/macro_f1" in done.output
    best = frame["val/macro_f1"].idxmax()
    assert frame["lr"][best] == 0.1


def test_the_report_shows_it(done: Done) -> None:
    page = (done.sweep.path / "report.html").read_text()
    assert "validation macro_f1" in page and "<th" in page and "val/macro_f1" in page
    assert (done.sweep.path / "plots" / "effect_lr.png").exists()


def test_compare_has_a_column_for_it(done: Done) -> None:
    statuses = [run.read_status() for run in done.runs().values()]
    columns = [str(column.header).replace("\n", "/") for column in results_table(["a", "b"], statuses).columns]
    assert {"val/macro_f1", "test/macro_f1"} <= set(columns)
