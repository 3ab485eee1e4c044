"""What a sweep's report says, on sweeps made by hand."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lithydra
from by_hand import write_run, write_sweep
from conftest import ROOT
from lithydra.errors import ConfigError
from lithydra.report import figures
from lithydra.report.input import ReportData
from lithydra.report.layer_figures import layers_at_start
from lithydra.report.page import commands, report_sweep
from lithydra.run.directory import RunDir
from lithydra.run.histograms import Histogram, add_histograms, bound, last_parameters, standard_deviation
from lithydra.sweeps.directory import Job, SweepDir, config_key
from lithydra.sweeps.results import Spread, ranked_settings

AXES = {"optimizer": ["sgd", "adam"], "lr": ["0.1", "1e-3"], "seed": ["0", "1", "2"]}
DIVERGED = "lr=0.1,optimizer=adam,seed=1"


def score(point: dict[str, str]) -> float:
    return 0.5 + 0.2 * (point["optimizer"] == "adam") + 0.1 * (point["lr"] == "1e-3") + 0.01 * int(point["seed"])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    """Made and reported on by the command, as a person would."""
    sweep = write_sweep(tmp_path_factory.mktemp("sweeps") / "s", AXES, score, states={DIVERGED: "diverged"})
    done = report_command(f"sweep={sweep.path}", folder=sweep.path)
    assert done.returncode == 0, done.stderr
    (sweep.path / "terminal.txt").write_text(done.stdout)
    return sweep


def report_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_results_have_a_row_a_job_with_typed_axes(sweep: SweepDir) -> None:
    frame = lithydra.results(str(sweep.path))
    assert isinstance(frame, pd.DataFrame) and len(frame) == 12
    assert frame["lr"].dtype == float and frame["seed"].dtype == int
    row = frame[(frame["optimizer"] == "adam") & (frame["lr"] == 0.001) & (frame["seed"] == 2)].iloc[0]
    assert (row["state"], row["best_epoch"], row["seconds"]) == ("finished", 2, 3.0)
    assert row["val/acc"] == pytest.approx(0.82) and Path(row["run"]).is_dir()


def test_results_of_no_sweep_are_refused(tmp_path: Path) -> None:
    for name in ("nowhere", 300 * "x"):
        with pytest.raises(ConfigError, match=rf"sweep=.*{name}: no such directory"):
            lithydra.results(tmp_path / name)
    with pytest.raises(ConfigError, match="not a sweep directory"):
        lithydra.results(tmp_path)


def test_an_unfinished_sweep_has_results_and_a_report(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5, states={"lr=0.2": "not started"})
    assert list(lithydra.results(sweep.path)["state"]) == ["finished", "not started"]
    report_sweep(sweep.path)
    assert "1 not started" in (sweep.path / "report.html").read_text()


def test_a_sweep_without_any_run_has_a_report(tmp_path: Path) -> None:
    states = {"lr=0.1": "not started", "lr=0.2": "not started"}
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5, states=states)
    report_sweep(sweep.path)
    assert "No job has finished yet" in (sweep.path / "report.html").read_text()


def test_spread_is_students() -> None:
    spread = Spread.of([0.1, 0.2, 0.3])
    assert spread is not None and spread.std is not None and spread.half_width is not None
    assert (spread.mean, spread.std) == (pytest.approx(0.2), pytest.approx(0.1))
    assert spread.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5)
    assert Spread.of([0.5, float("nan")]) == Spread(0.5, None, None, 1)
    assert Spread.of([float("nan")]) is None


def test_folds_share_images_and_widen_the_interval(tmp_path: Path) -> None:
    """By Nadeau and Bengio: of five folds, by the root of (1/5 + 1/4) / (1/5)."""
    repeats = [str(number) for number in range(5)]
    widths = []
    for axis in ("seed", "data.fold"):
        swept = write_sweep(tmp_path / axis, {axis: repeats}, lambda point: 0.5 + 0.01 * int(point[axis]))  # noqa: B023
        (setting,) = ranked_settings(lithydra.results(swept.path), swept.read())
        widths.append(setting.metrics["val/acc"].half_width)
        report_sweep(swept.path)
        assert ("Nadeau" in (swept.path / "report.html").read_text()) == (axis == "data.fold")
    assert widths[1] == pytest.approx(1.5 * widths[0])


def test_settings_rank_by_validation_and_complete_ones_first(sweep: SweepDir) -> None:
    settings = ranked_settings(lithydra.results(sweep.path), sweep.read())
    order = [(s.values["optimizer"], s.values["lr"]) for s in settings]
    # adam at 0.1 is second by its mean, but one of its seeds diverged
    assert order == [("adam", 0.001), ("sgd", 0.001), ("sgd", 0.1), ("adam", 0.1)]
    best = settings[0].metrics["val/acc"]
    assert (best.mean, best.count) == (pytest.approx(0.81), 3)


def test_a_setting_with_fewer_seeds_than_others_comes_after_them(tmp_path: Path) -> None:
    """Of a sweep over two seeds that was gone on with over three at one rate: the other's third was never planned."""
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"], "seed": ["0", "1", "2"]}, lambda p: float(p["lr"]))
    plan = sweep.read()
    plan.jobs = [job for job in plan.jobs if job.name != "lr=0.2,seed=2"]
    sweep.write(plan)
    settings = ranked_settings(lithydra.results(sweep.path), plan)
    assert [(setting.name, setting.repeats) for setting in settings] == [("lr=0.1", 3), ("lr=0.2", 2)]


def test_the_test_metric_chooses_nothing(sweep: SweepDir) -> None:
    """In these runs the test accuracy is the higher, the lower that of validation."""
    settings = ranked_settings(lithydra.results(sweep.path), sweep.read())
    tests = [s.metrics["test/acc"].mean for s in settings]
    assert tests[0] == min(tests)


def test_report_names_the_best_and_what_went_wrong(sweep: SweepDir) -> None:
    terminal = (sweep.path / "terminal.txt").read_text()
    assert re.search(r"1 │ adam +│ 0.001 │ 3 of 3 +│ +0.8100 ±", terminal)
    page = (sweep.path / "report.html").read_text()
    assert f"{DIVERGED} went astray" in page and "11 finished" in page and "1 diverged" in page
    assert "optimizer=adam, lr=0.001" in page and "0.8100 ± 0.0100" in page
    assert "Student" in page and page.count("<svg") == 8  # heat map, two effects, importance, costs, two curves, gap
    assert len(pd.read_csv(sweep.path / "results.csv")) == 12


def test_report_is_one_file_that_needs_no_network(sweep: SweepDir) -> None:
    page = (sweep.path / "report.html").read_text()
    loaded = re.findall(r'(?:src|@import|url\()\s*=?\s*["\']?(?!#)[^"\') ]+', page)
    assert loaded == []
    assert re.findall(r"<(?:link|iframe|script src)", page) == []


def test_report_md_shows_its_plots(sweep: SweepDir) -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (sweep.path / "report.md").read_text())
    assert len(pictures) == 8
    assert all((sweep.path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_commands_run_the_best_again(sweep: SweepDir) -> None:
    first = commands(ReportData(sweep.path))[0]
    assert first["text"] == "python train.py data=digits optimizer=adam lr=1e-3 seed=2"


def test_axes_with_a_plus_are_told_apart(tmp_path: Path) -> None:
    """As sweep.json had them once; `~key` stays what it is in what is run again."""
    sweep = write_sweep(tmp_path / "s", {"+model.new": ["1", "2"], "++seed": ["0", "1"]}, lambda p: 0.5)
    plan = json.loads(sweep.file.read_text())
    plan["jobs"][0]["overrides"].append("~scheduler.gamma")
    sweep.file.write_text(json.dumps(plan))
    rows = lithydra.results(sweep.path).to_dict("records")
    assert [(row["model.new"], row["seed"]) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    shown = ReportData(sweep.path)
    assert [setting.name for setting in shown.settings] == ["model.new=1", "model.new=2"]
    assert commands(shown)[0]["text"] == "python train.py data=digits +model.new=1 ++seed=0 '~scheduler.gamma'"


def test_jobs_from_before_an_axis_have_the_value_of_their_config(tmp_path: Path) -> None:
    """A sweep over lr that is gone on with over lr, net and a key that was not there before."""
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"], "net": ["a", "b"]}, lambda p: 0.5)
    plan = sweep.read()
    config = {"lr": 0.1, "net": None}
    old = Job(config_key(config), "old", ["lr=0.1"], "old", {"optimizer": "sgd"})
    sweep.add(plan, old, config)
    write_run(sweep.path / "old", 0.6)
    plan.axes |= {"optimizer": ["adam"], "new": ["1"]}
    sweep.write(plan)
    row = lithydra.results(sweep.path).to_dict("records")[-1]
    assert (row["lr"], row["net"], row["optimizer"], row["new"]) == (0.1, "null", "sgd", "—")
    for axes in (("lr", "net"), ("lr", "net", "new")):
        sweep.write(replace(plan, axes={axis: [*plan.axes[axis], "more"] for axis in axes}))
        report_sweep(sweep.path)
        names = {path.stem for path in (sweep.path / "plots").iterdir()}
        assert {"heat_map" if len(axes) == 2 else "parallel", "curves_lr", "effect_net"} <= names


def test_a_job_that_is_there_twice_is_no_repeat(tmp_path: Path) -> None:
    """As one from before an axis, at the value that is its default."""
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"], "seed": ["0", "1"]}, lambda p: 0.5 + int(p["seed"]))
    plan = sweep.read()
    first = plan.jobs[0]
    plan.jobs.append(Job("again", "again", first.overrides, first.run))
    sweep.write(plan)
    spread = ranked_settings(lithydra.results(sweep.path), plan)[0].metrics["val/acc"]
    assert (spread.mean, spread.count) == (1.0, 2)


def test_three_axes_are_shown_as_parallel_coordinates(tmp_path: Path) -> None:
    axes = {"optimizer": ["sgd", "adam"], "lr": ["0.1", "0.01"], "model.dropout": ["0", "0.5"]}
    sweep = write_sweep(tmp_path / "s", axes, lambda p: 0.5 + float(p["lr"]))
    report_sweep(sweep.path)
    plots = {path.stem for path in (sweep.path / "plots").iterdir()}
    assert {"parallel", "effect_lr", "effect_optimizer", "effect_model.dropout", "gap"} <= plots
    assert "heat_map" not in plots


def test_a_search_over_a_scale_shows_its_history(tmp_path: Path) -> None:
    values = [str(0.001 * 1.5**i) for i in range(14)]
    pruned = {f"lr={value}": "pruned" for value in values[3:5]}
    sweep = write_sweep(tmp_path / "s", {"lr": values}, lambda p: 0.5 + float(p["lr"]), states=pruned)
    (sweep.path / "optuna.db").touch()
    report_sweep(sweep.path)
    assert (sweep.path / "plots" / "history.png").exists()
    assert "2 pruned" in (sweep.path / "report.html").read_text()


def test_histograms_are_written_read_and_shown(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
    for width, job in enumerate(sweep.read().jobs, start=1):
        values = np.random.default_rng(0).normal(0, width, 10_000)
        add_histograms(sweep.run(job), 1, {"parameter/layers.1.weight": Histogram(*np.histogram(values, 40))})
    histogram = last_parameters(RunDir(sweep.path / "lr=0.2"))["layers.1.weight"]
    assert histogram[0].sum() == 10_000 and len(histogram[1]) == 41
    assert standard_deviation(histogram) == pytest.approx(2, rel=0.05)
    assert bound(histogram) == pytest.approx(2.576 * 2, rel=0.1)  # 99 % of a normal distribution
    report_sweep(sweep.path)
    assert (sweep.path / "plots" / "histograms.png").exists()
    assert last_parameters(RunDir(tmp_path)) == {}


def test_a_few_low_accuracies_are_cut_off_and_a_setting_that_does_not_learn_is_not() -> None:
    accuracies = {"good": [0.1, *[0.95] * 19], "bad": [0.1] * 20}
    for names, bottom in ((["good"], 0.8), (["good", "bad"], 0)):
        rows = [
            {"name": name, "net": name, "state": "finished", "epoch": epoch, "val/acc": accuracy}
            for name in names
            for epoch, accuracy in enumerate(accuracies[name], start=1)
        ]
        panel = figures.learning_curves(pd.DataFrame(rows), "net", ["net"], "val/acc").axes[0]
        assert panel.get_ylim()[0] == pytest.approx(bottom, abs=0.1)


def test_a_cross_ends_the_curve_of_a_trial_that_was_pruned() -> None:
    ends = {"a": "finished", "b": "pruned"}
    rows = [
        {"name": name, "lr": name, "state": state, "epoch": epoch, "val/acc": 0.5}
        for name, state in ends.items()
        for epoch in (1, 2)
    ]
    lines = figures.learning_curves(pd.DataFrame(rows), "lr", ["lr"], "val/acc").axes[0].lines
    assert [(line.get_marker(), line.get_markevery()) for line in lines][1] == ("x", [1])
    assert lines[0].get_marker() != "x"


def test_layers_are_shown_where_there_is_a_line_to_draw(tmp_path: Path) -> None:
    for name, layers in (("deep", 4), ("shallow", 2)):
        sweep = write_sweep(tmp_path / name, {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
        for job in sweep.read().jobs:
            rows = [
                {"epoch": epoch, "layer": f"hidden.{layer}", "quantity": quantity, "value": 10.0**layer + epoch}
                for epoch in (0, 1)
                for layer in range(layers)
                for quantity in ("gradient", "std", "mean")
            ]
            pd.DataFrame(rows).to_csv(sweep.run(job).path / "layers.csv", index=False)
        figure = layers_at_start(ReportData(sweep.path).settings_as_given)
        report_sweep(sweep.path)
        (sweep.path / "plots" / "of_an_earlier_report.png").touch()
        report_sweep(sweep.path)
        assert not (sweep.path / "plots" / "of_an_earlier_report.png").exists()
        assert (figure is not None) == (sweep.path / "plots" / "layers.png").exists() == (name == "deep")
        if figure is not None:
            lines = figure.axes[0].get_lines()
            assert [line.get_label() for line in lines] == ["0.1", "0.2"]
            assert np.asarray(lines[0].get_ydata()).tolist() == [1, 10, 100, 1000]  # before training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep=nowhere",), "sweep=nowhere: no such directory"),
        (("sweep=empty",), "sweep=empty: not a sweep directory"),
        (("sweep=file",), "sweep=file: a file, not a directory"),
        ((), "sweep: must be given"),
    ],
)
def test_what_is_no_sweep_is_refused_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    refused = report_command(*arguments, folder=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert message in refused.stderr
