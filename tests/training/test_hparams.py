"""What TensorBoard's HPARAMS tab is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

from conftest import CONF, RunTrain
from lithydra.run.directory import RunDir
from lithydra.training.hparams import NAMED_GROUPS, USUAL


def table(folder: Path) -> list[Any]:
    """The rows of the tab, as TensorBoard's server tells them."""
    events = EventMultiplexer().AddRunsFromDirectory(str(folder))
    assert events is not None
    events.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(events, str(folder))))
    request = api_pb2.ListSessionGroupsRequest(slice_size=10, allowed_statuses=list(range(4)))  # pyright: ignore
    return [*list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups]


def train_two(run_train: RunTrain) -> None:
    for dropout in (0.1, 0.3):
        settings = (f"model.dropout={dropout}", "data.limit=200", "trainer.max_epochs=1")
        run_train(*settings, "callbacks=none", "logger=tensorboard")


def test_a_row_has_what_was_set_and_the_final_metrics(run_train: RunTrain, tmp_path: Path) -> None:
    train_two(run_train)
    rows = table(tmp_path / "runs")
    assert sorted(row.hparams["model.dropout"].number_value for row in rows) == [0.1, 0.3]
    usual = {"lr", "data", "model", "optimizer"}
    assert {*rows[0].hparams} == usual | {"model.dropout", "data.limit", "trainer.max_epochs"}
    finals = {RunDir(path).read_status()["metrics"]["val/acc"] for path in (tmp_path / "runs").iterdir()}
    shown = {m.value for row in rows for m in row.metric_values if m.name.tag == "with_best/val/acc"}
    assert sorted(shown) == pytest.approx(sorted(finals))


def test_a_job_of_a_sweep_has_what_the_sweep_varies(run_train: RunTrain, tmp_path: Path) -> None:
    """TensorBoard shows the first five by name: what all jobs have alike would take their places."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "sweep.json").write_text(json.dumps({"axes": {"model.dropout": ["0.1", "0.3"]}}))
    train_two(run_train)
    assert [{*row.hparams} for row in table(tmp_path / "runs")] == [{"model.dropout"}] * 2


def test_the_usual_choices_are_those_of_the_config() -> None:
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    chosen = {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}
    assert {group: chosen[group] for group in USUAL} == USUAL
    others = {*NAMED_GROUPS} - {*USUAL, "data", "model", "optimizer"}
    assert {chosen[group] for group in others} == {"none"}
