"""Damaged files in a sweep's directory: what can be rebuilt is rebuilt and said, the rest is one line."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_hand import write_sweep
from lithydra.errors import ConfigError
from lithydra.report import page
from lithydra.report.input import ReportData
from lithydra.sweeps.directory import Job, SweepDir, config_key
from lithydra.sweeps.results import results
from sweeping import QUICK, Done, sweep, table

TWO = ("seed=0,1", *QUICK)


@pytest.fixture(scope="module")
def whole(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    done = sweep(*TWO, folder=tmp_path_factory.mktemp("whole"), data_dir=data_dir)
    assert done.code == 0, done.output
    return done


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_keeps_the_config_of_its_job(whole: Done) -> None:
    """By which a job is found again whose plan is lost."""
    for job in whole.sweep.read().jobs:
        assert config_key(whole.sweep.run(job).read_config()) == job.key == config_key(whole.sweep.config(job))


def again(whole: Done, damage: Callable[[SweepDir], object], data_dir: Path, folder: Path) -> Done:
    """The command of `whole` in a damaged copy of its directory."""
    shutil.copytree(whole.sweep.path.parents[1], folder / "outputs")
    damage(SweepDir(folder / "outputs" / "sweeps" / "s"))
    done = sweep(*TWO, folder=folder, data_dir=data_dir)
    assert done.code == 0, done.output
    return done


def test_a_lost_plan_is_made_again_and_no_run_is_lost(whole: Done, data_dir: Path, tmp_path: Path) -> None:
    def damage(directory: SweepDir) -> None:
        cut(directory.file)
        shutil.copytree(directory.path / "seed=0", tmp_path / "other")
        shutil.rmtree(directory.path / "seed=1")
        (tmp_path / "other").rename(directory.path / "seed=1")  # not what its name says

    done = again(whole, damage, data_dir, tmp_path)
    assert re.search(r"sweep\.json: damaged .*; it is now sweep\.json\.damaged", done.output)
    assert "1 of 2 jobs ended before this command" in done.output
    found = table(done)
    assert list(found) == ["seed=0", "seed=1_2"] and list(found.values()) == list(table(whole).values())


def test_lost_statuses_and_configs_are_made_again(whole: Done, data_dir: Path, tmp_path: Path) -> None:
    def damage(directory: SweepDir) -> None:
        first, second = directory.read().jobs
        cut(directory.run(first).status)
        directory.run(second).status.write_text("[1]")
        cut(directory.config_file(first))
        directory.config_file(second).unlink()

    done = again(whole, damage, data_dir, tmp_path)
    assert len(re.findall(r"status\.json: damaged .*; it is now status\.json\.damaged", done.output)) == 2
    assert len(re.findall(r"\.yaml: (damaged|cannot be read).*; written again", done.output)) == 2
    assert table(done) == table(whole)
    for job in done.sweep.read().jobs:
        assert done.sweep.config(job)["seed"] == int(job.name[-1])


DAMAGE: list[Any] = [None, 1, "text", [1], {"a": 1}, [], {}]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a second to draw; the last test here has them."""
    monkeypatch.setattr("lithydra.report.page.sections", lambda sweep: [])


@pytest.mark.usefixtures("without_pictures")
def test_no_damage_of_a_plan_ends_in_a_traceback(tmp_path: Path) -> None:
    """Each field of sweep.json and of its first job: other types, nothing, one too many."""
    directory = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"], "net": ["a"]}, lambda _: 0.5)
    plan = json.loads(directory.file.read_text())
    damaged = [{**plan, key: value} for key in plan for value in DAMAGE]
    damaged += [{k: v for k, v in plan.items() if k != key} for key in plan]
    job, *others = plan["jobs"]
    damaged += [{**plan, "jobs": [{**job, key: value}, *others]} for key in job for value in DAMAGE]
    damaged += [{**plan, "jobs": [{k: v for k, v in job.items() if k != key}, *others]} for key in job]
    damaged += [{**plan, "study": {"verdict": value}} for value in DAMAGE]
    damaged += [*DAMAGE, {**plan, "new": 1}]
    refused = 0
    for content in damaged:
        directory.file.write_text(json.dumps(content))
        try:
            tables(directory)
        except ConfigError as error:
            assert str(error).startswith(f"{directory.file}: damaged (") and "\n" not in str(error)
            refused += 1
    assert refused > len(damaged) / 2
    for content in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        directory.file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"sweep\.json: damaged \("):
            directory.read()


def tables(directory: SweepDir) -> None:
    """All that a report says."""
    page._content(ReportData(directory.path))


@pytest.mark.usefixtures("without_pictures")
def test_no_damage_of_a_job_ends_in_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
    run = directory.run(directory.read().jobs[0])
    status, metrics = json.loads(run.status.read_text()), run.metrics.read_bytes()
    damaged = [{**status, key: value} for key in status for value in DAMAGE]
    damaged += [{**status, "metrics": {"val/acc": value}} for value in DAMAGE]
    for content in [*damaged, *DAMAGE]:
        run.status.write_text(json.dumps(content))
        tables(directory)
    run.status.write_text("[1]")
    first, second = results(directory.path).to_dict("records")
    assert (first["state"], second["state"]) == ("damaged", "finished")
    assert "status.json: damaged" in first["error"]
    run.status.write_text(json.dumps(status))
    for content in (*(metrics[:end] for end in range(0, len(metrics), 5)), b"\xff" * 99, b"\0" * 99, b"a,b\n1,2,3\n"):
        run.metrics.write_bytes(content)
        tables(directory)
    assert f"{run.metrics}: damaged" in caplog.text
    run.metrics.write_bytes(metrics[:-5])  # as a full disk leaves it: the whole rows count
    assert results(directory.path)["seconds"].tolist() == [1.5, 3.0]


def test_a_report_does_without_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = write_sweep(tmp_path / "s", {"lr": ["0.1", "0.2"]}, lambda _: 0.5)
    first, second = (directory.run(job) for job in directory.read().jobs)
    first.histograms.write_bytes(b"PK")
    arrays = {"parameter/w/counts": np.zeros((1, 3)), "parameter/w/edges": np.zeros((1, 3))}
    np.savez(second.histograms, allow_pickle=False, **arrays)
    (first.path / "layers.csv").write_text("epoch,layer\n0,a\n")
    (second.path / "layers.csv").write_bytes(b"\xff\0")
    second.metrics.write_bytes(b"\0")
    page.report_sweep(directory.path)
    assert (directory.path / "report.html").exists()
    for path in (first.histograms, second.histograms, first.path / "layers.csv", second.path / "layers.csv"):
        assert f"{path}: damaged (" in caplog.text


def test_a_frozen_config_that_is_another_is_damaged(tmp_path: Path) -> None:
    """Cut at the end of a line, YAML is still YAML."""
    directory, config = SweepDir(tmp_path), {"seed": 1, "lr": 1e-5, "model": {"hidden": [16]}, "callbacks": {}}
    job = Job(config_key(config), "a", [], "a")
    directory.freeze(job, {**config, "callbacks": {"report_to_trial": {"number": 3}}})
    assert directory.config(job)["callbacks"] == {"report_to_trial": {"number": 3}}
    path = directory.config_file(job)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(ConfigError, match=r"\.yaml: damaged \(not what was frozen there\)"):
        directory.config(job)
