"""What of a sweep matters and what it costs: shares of variance, an estimate for searches, the best for the time."""

import itertools
import random
from pathlib import Path

import pandas as pd
import pytest

from by_hand import write_sweep
from lithydra.report import importance
from lithydra.report.input import ReportData
from lithydra.report.page import write_report
from lithydra.sweeps.results import Frame


def grid(effects: dict[str, dict[str, float]], noise: float = 0.0) -> Frame:
    """Three seeds of every combination, whose score is the sum of its values' effects."""
    drawn = random.Random(0)
    rows = []
    for values in itertools.product(*(effects[axis] for axis in effects), range(3)):
        point = dict(zip((*effects, "seed"), values, strict=True))
        score = sum(effects[axis][str(point[axis])] for axis in effects) + drawn.gauss(0, noise)
        rows.append({**point, "state": "finished", "val/acc": score})
    return pd.DataFrame(rows)


def test_shares_are_those_of_the_sums_of_squares() -> None:
    # Effects of ±3 and ±1 on two balanced axes: variances 9 and 1.
    frame = grid({"lr": {"0.1": 3.0, "0.01": -3.0}, "model": {"mlp": 1.0, "cnn": -1.0}})
    shares = importance.shares_of_variance(frame, ["lr", "model"], "val/acc")
    assert shares == pytest.approx({"lr": 0.9, "model": 0.1, importance.REST: 0.0})


def test_what_keys_do_only_together_is_nobodys() -> None:
    frame = grid({"a": {"0": 0.0, "1": 0.0}, "b": {"0": 0.0, "1": 0.0}})
    frame["val/acc"] = (frame["a"] != frame["b"]).astype(float)
    shares = importance.shares_of_variance(frame, ["a", "b"], "val/acc")
    assert shares == pytest.approx({"a": 0.0, "b": 0.0, importance.REST: 1.0})


def test_runs_that_have_no_result_do_not_count() -> None:
    frame = grid({"lr": {"0.1": 3.0, "0.01": -3.0}, "model": {"mlp": 1.0, "cnn": -1.0}})
    bad = pd.DataFrame([{"lr": "0.1", "model": "mlp", "seed": 9, "state": "diverged", "val/acc": -50.0}])
    shares = importance.shares_of_variance(pd.concat([frame, bad]), ["lr", "model"], "val/acc")
    assert shares["lr"] == pytest.approx(0.9)
    same = frame.assign(**{"val/acc": 0.5})
    assert importance.shares_of_variance(same, ["lr", "model"], "val/acc") == {}


@pytest.mark.filterwarnings("ignore")
def test_a_search_tells_what_matters_from_what_does_not() -> None:
    pytest.importorskip("optuna")
    drawn = random.Random(0)
    rows = [
        {"lr": 10 ** drawn.uniform(-4, 0), "dropout": drawn.uniform(0, 0.5), "model": drawn.choice(["mlp", "cnn"])}
        for _ in range(60)
    ]
    frame = pd.DataFrame(rows).assign(state="finished")
    frame["val/acc"] = [0.9 - 0.2 * (row["lr"] > 0.01) - 0.02 * (row["model"] == "mlp") for row in rows]
    shares = importance.importance_in_search(frame, ["lr", "dropout", "model"], "val/acc")
    assert max(shares, key=shares.__getitem__) == "lr" and shares["lr"] > 0.7 and shares["dropout"] < 0.1
    assert importance.importance_in_search(frame[:9], ["lr"], "val/acc") == {}


@pytest.mark.filterwarnings("ignore")
def test_a_search_over_numbers_and_names_of_one_key_is_reported(tmp_path: Path) -> None:
    """As trainer.gradient_clip_val=null,0.5,1.0 and trainer.steps_per_execution=auto,1."""
    pytest.importorskip("optuna")
    axes = {"clip": ["null", "0.5", "1.0"], "steps": ["auto", "1"], "lr": ["0.1", "0.01"]}
    sweep = write_sweep(tmp_path / "s", axes, lambda point: 0.5 + 0.2 * (point["clip"] == "null") + float(point["lr"]))
    (sweep.path / "optuna.db").touch()
    write_report(sweep.path)
    assert (sweep.path / "plots" / "importance.png").exists()
    data = ReportData(sweep.path)
    shares = importance.importance_in_search(data.frame, data.axes, "val/acc")
    assert shares.keys() == axes.keys() and max(shares, key=shares.__getitem__) == "clip"


def test_the_front_is_of_those_that_no_other_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.9), (1.5, 0.8), (3.0, 0.85), (1.5, 0.7), (9.0, 0.9)]
    assert importance.front(points, "max") == [0, 2, 1]
    assert importance.front([(x, 1 - y) for x, y in points], "min") == [0, 2, 1]


def test_the_report_shows_both_where_there_are_enough_settings(tmp_path: Path) -> None:
    axes = {"lr": ["0.1", "0.01"], "model": ["mlp", "cnn"], "seed": ["0", "1"]}
    write_sweep(tmp_path / "two", axes, lambda point: 0.8 + float(point["lr"]) + 0.01 * int(point["seed"]))
    write_report(tmp_path / "two")
    page = (tmp_path / "two" / "report.html").read_text()
    assert "What matters" in page and "What it costs" in page
    assert {"importance.png", "pareto.png"} <= {path.name for path in (tmp_path / "two" / "plots").iterdir()}
    write_sweep(tmp_path / "one", {"lr": ["0.1", "0.01"]}, lambda point: 0.8 + float(point["lr"]))
    write_report(tmp_path / "one")
    page = (tmp_path / "one" / "report.html").read_text()
    assert "What matters" not in page and "What it costs" not in page  # of one key there is nothing to compare
