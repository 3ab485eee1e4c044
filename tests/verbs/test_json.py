"""`--json`: one object on stdout, with the keys that docs/runs.md says; all else goes to stderr."""

import json
import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from by_hand import write_sweep
from conftest import ROOT
from killing import in_child
from lithydra import cli

Answer = Callable[..., dict[str, Any]]
OF_A_RUN = ("data.limit=200", "trainer.max_epochs=1", "logger=none", "callbacks=none")


def documented() -> dict[str, set[str]]:
    """By command, the keys of docs/runs.md: the words in backticks of its row."""
    rows = re.findall(r"^\| `(\w+)\.py`.*?\| (.*) \|$", (ROOT / "docs" / "runs.md").read_text(), re.MULTILINE)
    return {verb: set(re.findall(r"`(\w+)`", keys)) for verb, keys in rows}


def keys(answer: Any) -> set[str]:
    """Of an answer and of all that is in it."""
    if isinstance(answer, dict):
        return answer.keys() | {key for value in answer.values() for key in keys(value)}
    return {key for value in answer for key in keys(value)} if isinstance(answer, list) else set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A folder with a run, a sweep and an image."""
    folder = tmp_path_factory.mktemp("json")
    write_sweep(folder / "sweep", {"lr": ["0.1", "0.2"]}, lambda point: float(point["lr"]))
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "image.png")
    for number, name in enumerate(("run", "other")):
        answer_in(folder, data_dir)("train", *OF_A_RUN, f"seed={number}", f"run={name}")
    return folder


@pytest.fixture
def answer(folder: Path, data_dir: Path) -> Answer:
    return answer_in(folder, data_dir)


def answer_in(folder: Path, data_dir: Path) -> Answer:
    def called(verb: str, *arguments: str) -> dict[str, Any]:
        def task() -> None:
            os.chdir(folder)
            os.environ.update(LITHYDRA_DATA=str(data_dir), LITHYDRA_OUTPUTS=str(folder))
            file = (folder / "stdout").open("w")
            os.dup2(file.fileno(), 1)
            sys.stdout = os.fdopen(1, "w", closefd=False)
            GlobalHydra.instance().clear()
            sys.argv = [f"{verb}.py", *arguments, "--json"]
            cli.main(verb)

        log = folder / f"{verb}.log"
        assert in_child(task, log) == 0, log.read_text()
        return json.loads((folder / "stdout").read_text(), parse_constant=pytest.fail)

    return called


COMMANDS = {
    "train": (*OF_A_RUN, "run=third"),
    "runs": (),
    "evaluate": ("run=run",),
    "predict": ("run=run", "input=image.png"),
    "compare": ("run", "other", "mistakes=true"),
    "report": ("sweep=sweep",),
    "inspect_data": (),
    "lr_find": (
        "lr_find.num_steps=20",
        "trainer.max_epochs=2",
    ),
    "explain": ("run=run", "num_images=1"),
    "export": ("run=run", "format=torch_export", "num_images=20"),
    "reproduce_run": ("run=run",),
}
EXTRAS = {"explain": "captum"}
# With delete=, of a study, of another format.
OPTIONAL = {"runs": {"deleted", "now"}, "report": {"claim", "verdict", "figures"}, "export": {"onnx"}}


@pytest.mark.filterwarnings("ignore")  # of torch's exporter
@pytest.mark.parametrize("verb", COMMANDS)
def test_an_answer_has_the_keys_that_are_documented(verb: str, answer: Answer) -> None:
    if verb in EXTRAS and find_spec(EXTRAS[verb]) is None:
        pytest.skip(f"{EXTRAS[verb]} is an extra, and not installed")
    found = answer(verb, *COMMANDS[verb])
    assert found.pop("verb") == verb
    told = documented()[verb]
    assert found.keys() <= told and told - keys(found) <= OPTIONAL.get(verb, set())


def test_every_command_with_an_answer_is_documented() -> None:
    assert documented().keys() == COMMANDS.keys()
