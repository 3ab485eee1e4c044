"""What a report's page and its lines in the terminal make of odd names, of paths, and of accuracies."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from by_hand import write_sweep
from lithydra.errors import ConfigError
from lithydra.report.input import ReportData
from lithydra.report.page import report_sweep, write_report
from lithydra.run.directory import RunDir
from lithydra.sweeps.directory import SweepDir
from lithydra.sweeps.results import Spread


def test_names_and_messages_cannot_break_the_page(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5, states={"lr=0.2": "failed"})
    RunDir(sweep.path / "lr=0.2").update_status(error="<script>alert(1)</script> | pipe")
    report_sweep(sweep.path)
    assert "<script>alert(1)" not in (sweep.path / "report.html").read_text()
    assert "\\| pipe" in (sweep.path / "report.md").read_text()


def test_tensorboard_is_named_where_a_job_has_logged_to_it(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
    report_sweep(sweep.path)
    assert "tensorboard --logdir" not in (sweep.path / "report.html").read_text()
    RunDir(sweep.path / "lr=0.2").tensorboard.mkdir()
    report_sweep(sweep.path)
    assert f"tensorboard --logdir {sweep.path}" in (sweep.path / "report.html").read_text()


def test_brackets_are_printed_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rich takes [flip] and [/data] for its markup."""
    axes = {"augmentation": ["none", "[flip]", "[flip,shift]"], "init.from": ["[/data]", ":x:"]}
    sweep = write_sweep(tmp_path / "out[red]", axes, lambda _: 0.5)
    report_sweep(sweep.path)
    printed = capsys.readouterr().out
    for shown in ("│ [flip]", "│ [flip,shift]", "│ [/data]", "│ :x:", f"{sweep.path}/report.html", f"'{sweep.path}'"):
        assert shown in printed, printed


def with_images(sweep: SweepDir) -> SweepDir:
    for job in sweep.read().jobs:
        data = '"data": {"num_val": 900, "num_test": 100}'
        run = sweep.run(job)
        run.provenance.write_text(f'{{"choices": {{}}, "overrides": [], "hardware": {{}}, {data}}}')
    return sweep


def test_the_best_says_how_much_its_number_of_images_leaves_to_chance(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.01"]}, lambda point: 0.8 + float(point["lr"]))
    write_report(with_images(sweep).path)
    for file in ("report.html", "report.md"):
        text = (sweep.path / file).read_text()
        assert "± 0.0100 of one run by its 900 images alone" in text  # √(0.9 · 0.1 / 900)
        assert "± 0.0300 of one run by its 100 images alone" in text  # of the test accuracy, 0.1
    assert "\nBest: lr=0.1 (1 run)\n" in (sweep.path / "report.md").read_text()
    assert ReportData(sweep.path).settings[0].metrics["test/acc"].mean == pytest.approx(0.1)


def test_accuracies_in_percent_are_reported_without_that_chance(tmp_path: Path) -> None:
    """As a module of one's own may log them."""
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.01"]}, lambda point: 90 + float(point["lr"]))
    write_report(with_images(sweep).path)
    page = (sweep.path / "report.html").read_text()
    assert "90.1000" in page and "images alone" not in page


def test_a_report_does_not_wait_for_torch(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
    code = "import pathlib, sys, lithydra.report.page as page\n"
    code += "page.report_sweep(pathlib.Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(sweep.path)]).returncode == 0


def test_seconds_until_a_metric_has_a_value_are_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two epochs, which end after 1 s + score and 2 s + score; val/acc of the first is half of the score."""
    sweep = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.4", "0.8"]}, lambda point: float(point["lr"]))
    report = report_sweep(sweep.path, "val/acc >= 0.35")
    times = {s.values["lr"]: s.metrics.get("seconds to val/acc ≥ 0.35") for s in report.settings}
    assert times[0.1] is None and times[0.4] == Spread(2.4, None, None, 1) and times[0.8] == Spread(1.8, None, None, 1)
    assert "seconds to val/acc" in capsys.readouterr().out
    for until, said in {"val/acc 0.3": "must be a metric, >= or <=", "val/ac >= 0.3": "Did you mean val/acc?"}.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            report_sweep(sweep.path, until)
