"""scripts/runs.py: the table, what chooses and sorts its rows, and what is done to the runs chosen."""

import csv
import io
import json
import logging
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

import lithydra
from by_hand import write_run, write_sweep
from conftest import CONF
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.run.listing import read_labels
from lithydra.sweeps.directory import SweepDir
from lithydra.verbs.runs import runs

SCORES = {"a": 0.9, "b": 0.7, "c": 0.8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs: b failed, and c has another lr."""
    for name, score in SCORES.items():
        run = write_run(tmp_path / "runs" / name, score, state="failed" if name == "b" else "finished")
        lr = 0.01 if name == "c" else 0.1
        size = "auto" if name == "b" else 32 if name == "a" else 4
        groups = {"data": {"name": "digits", "batch_size": size}, "model": {}, "optimizer": {"lr": lr}}
        groups["trainer"] = {"max_epochs": 2}
        run.config.write_text(
            yaml.safe_dump({"monitor": {"metric": "val/acc", "mode": "max"}, "lr": lr, **groups}, explicit_end=True)
        )
        choices = {"data": "digits", "model": "mlp"}
        run.provenance.write_text(json.dumps({"choices": choices, "overrides": [f"lr={lr}"], "hardware": {}}))
        run.update_status(started=f"2026-01-0{len(SCORES) - ord(name) + ord('a')}T00:00:00+00:00")
    return tmp_path


def settings(folder: Path, **given: object) -> DictConfig:
    file = OmegaConf.to_container(OmegaConf.load(CONF / "runs.yaml"))
    assert isinstance(file, dict)
    own = {key: value for key, value in file.items() if key != "defaults"}
    paths = {"data": "data", "outputs": str(folder), "runs": f"{folder}/runs", "sweeps": f"{folder}/sweeps"}
    config = OmegaConf.create({**own, "paths": paths, **given})
    check_verb(config, "runs")
    return config


def listed(folder: Path, **given: object) -> list[str]:
    return [row["run"].removeprefix("runs/") for row in runs(settings(folder, **given))["runs"]]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("val/acc > 0.75", ["a", "c"]),
        ("val/acc>0.75 and lr < 0.05", ["c"]),
        ("optimizer.lr == 0.1 and state == 'finished'", ["a"]),
        ("state == 'failed' or trainer.max_epochs > 2", ["b"]),
        ("settings.str.contains('0.01')", ["c"]),
        ("`val/acc` > 0.75 and not lr < 0.05", ["a"]),
        ("run == 'val/acc'", []),
        ("data.batch_size == 4 or data.str.contains('mnist')", ["c"]),
    ],
)
def test_an_expression_chooses_runs(folder: Path, where: str, found: list[str]) -> None:
    assert listed(folder, where=where) == found


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("val/ac > 0.9", "'ac' is not defined|name 'val' is not defined"),
        ("stat == 'failed'", "'stat' is not defined. Did you mean state?"),
        ("val/acc >", "invalid syntax"),
        ("state > 1", "where=state > 1: "),
    ],
)
def test_an_expression_that_cannot_be_read_is_refused(folder: Path, where: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        listed(folder, where=where)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        *(
            ("-started", "abc"),
            ("started", "cba"),
            ("-val/acc", "acb"),
            ("val/acc", "bca"),
            ("lr", "cab"),
            (None, "abc"),
        ),
        *(("data.batch_size", "cab"), ("-data.batch_size", "bac")),  # 4, 32, auto
    ],
)
def test_a_column_or_a_setting_sorts(folder: Path, sort: str | None, order: str) -> None:
    found = listed(folder, sort=sort)
    assert (found if sort else sorted(found)) == [*order]


def test_a_column_that_no_run_has_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"val/ac: no run has such a column or setting. Did you mean val/acc\?"):
        listed(folder, sort="-val/ac")
    with pytest.raises(ConfigError, match=r"optimizer\.rate: no run has"):
        listed(folder, columns="run,optimizer.rate")


def test_the_table_has_what_differs_and_fits_80_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    runs(settings(folder))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.split()[:2] == ["3", "runs"] and "lr=0.01" in printed
    assert "val/acc" in printed and "0.9000" in printed and "failed" in printed


def test_csv_has_the_columns_that_were_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(settings(folder, format="csv", columns="run, lr,val/acc", sort="run", limit=2))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows == [{"run": f"runs/{name}", "lr": "0.1", "val/acc": str(SCORES[name])} for name in "ab"]


def test_columns_that_are_made_are_in_csv_and_json_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"columns": "run,best,age", "where": "data.batch_size == 32"}
    (told,) = runs(settings(folder, format="csv", **given))["runs"]
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [*told] == [*row] == ["run", "best", "age"]
    assert float(row["best"]) == told["best"] == 0.9 and float(row["age"]) > 86400


def test_more_than_a_terminal_shows_is_left_out_of_the_table_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lithydra.verbs.runs.SHOWN_ROWS", 2)
    assert len(runs(settings(folder))["runs"]) == 3
    assert "and 1 more; limit=null shows all" in capsys.readouterr().out
    runs(settings(folder, format="csv"))
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_sweeps_stand_below_their_runs_and_are_deleted_whole(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = write_sweep(folder / "sweeps" / "s", {"lr": ["0.1", "0.2"]}, lambda point: float(point["lr"]) + 0.5)
    for job in swept.read().jobs:
        swept.run(job).config.write_text(yaml.safe_dump({"monitor": {"metric": "val/acc", "mode": "max"}}))
    monkeypatch.setenv("COLUMNS", "200")
    runs(settings(folder))
    table = capsys.readouterr().out.partition("Sweeps")[2]
    assert "2 finished" in table and "val/acc 0.7000" in table
    (moved,) = runs(settings(folder, delete=str(swept.path), ask=False))["deleted"]
    assert not swept.path.exists() and SweepDir(Path(moved["now"])).file.exists()
    assert listed(folder) == ["a", "b", "c"]


def test_html_is_the_page_of_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(settings(folder, format="html", where="val/acc > 0.75"))
    page = (folder / "index.html").read_text()
    assert "runs/b" in page and str(folder / "index.html") in capsys.readouterr().out


def test_runs_that_were_chosen_are_tagged(folder: Path) -> None:
    assert listed(folder, where="val/acc > 0.75", tag="good,paper", note="of the first try") == ["a", "c"]
    assert listed(folder, runs=[f"{folder}/runs/a"], untag="paper") == ["a"]
    assert read_labels(RunDir(folder / "runs" / "a")) == {"tags": ["good"], "note": "of the first try"}
    assert read_labels(RunDir(folder / "runs" / "b")) == {"tags": [], "note": ""}
    assert listed(folder, where="note.str.len() > 0 and tags.str.len() == 2") == ["c"]


def test_deleting_asks_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="asks before it moves it to the trash"):
        runs(settings(folder, delete="failed"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert runs(settings(folder, delete="failed")) == {"deleted": []} and (folder / "runs" / "b").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    (moved,) = runs(settings(folder, delete="failed"))["deleted"]
    assert not (folder / "runs" / "b").exists() and RunDir(Path(moved["now"])).status.exists()
    assert listed(folder) == ["a", "c"]


def test_one_run_or_those_chosen_are_deleted(folder: Path) -> None:
    runs(settings(folder, delete=str(folder / "runs" / "c"), ask=False))
    assert listed(folder) == ["a", "b"]
    runs(settings(folder, delete=True, where="val/acc > 0.75", ask=False))
    assert listed(folder) == ["b"]
    with pytest.raises(ConfigError, match=r"delete=faild: .*Did you mean failed\?"):
        runs(settings(folder, delete="faild"))


@pytest.mark.parametrize("what", [{"tag": "x"}, {"note": "x"}, {"delete": True}])
def test_nothing_is_done_to_all_runs_by_mistake(folder: Path, what: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="of which runs"):
        runs(settings(folder, ask=False, **what))
    assert listed(folder) == ["a", "b", "c"]


def test_a_damaged_run_stands_among_the_others(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "runs" / "b" / "config.yaml").write_text(":")
    (folder / "runs" / "c" / "status.json").write_text("no")
    with caplog.at_level(logging.ERROR):
        assert listed(folder, sort="lr", where="lr == 0.1 or state == 'damaged'") == ["c", "a"]


def test_python_has_them_as_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = lithydra.runs(folder, where="val/acc > 0.75", sort="-val/acc", settings=["optimizer.lr"])
    assert frame["run"].tolist() == ["runs/a", "runs/c"] and frame["optimizer.lr"].tolist() == [0.1, 0.01]
    assert str(frame["started"].dtype).startswith("datetime64") and frame["val/acc"].tolist() == [0.9, 0.8]
    monkeypatch.setenv("LITHYDRA_OUTPUTS", str(folder))
    assert len(lithydra.runs()) == 3
    with pytest.raises(ConfigError, match="no such folder"):
        lithydra.runs(folder / "nowhere")


def test_a_folder_without_runs_has_an_empty_table(tmp_path: Path) -> None:
    assert lithydra.runs(tmp_path).empty and runs(settings(tmp_path)) == {"runs": []}
