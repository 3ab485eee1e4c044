"""The documents are true where a program can tell: links, lengths, lists, commands."""

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from conftest import CONF, ROOT, Compose, write_npz
from killing import in_child
from lithydra import cli
from lithydra.checks.messages import ELSEWHERE
from lithydra.overrides import bare
from lithydra.run.config import flatten, select
from lithydra.verbs.table import VERBS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^    (?:\$ )?((?:python|pip|make|git|cp|eval|tensorboard) (?:.*\\\n)*.*)$", re.MULTILINE)
NULL_BY_DEFAULT = ("init.from", "resume", "run", "trainer.gradient_clip_val", "data.image_size")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = (re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(page.read_text()))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for link in LINK.findall(FENCE.sub("", page.read_text())):
            if not link.startswith(("http:", "https:")):
                yield page, link


def test_no_link_is_dead() -> None:
    dead: list[str] = []
    for page, link in links():
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_every_page_is_in_the_list() -> None:
    listed = {link for page, link in links() if page == ROOT / "docs" / "README.md"}
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"} <= listed


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_a_shell_takes_every_command() -> None:
    commands = [command for page in PAGES for command in COMMAND.findall(page.read_text())]
    assert len(commands) > 100
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`writer("make_choices")` is that script of docs/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module


def test_the_list_of_choices_is_that_of_conf(writer: Callable[[str], Any]) -> None:
    page = writer("make_choices").page()
    assert (ROOT / "docs" / "choices.md").read_text() == page, "python docs/make_choices.py writes it anew"


def test_the_schemas_are_those_of_the_rules(writer: Callable[[str], Any]) -> None:
    module = writer("make_schemas")
    schemas = {path.stem: json.loads(path.read_text()) for path in (ROOT / ".vscode" / "schemas").iterdir()}
    assert schemas == json.loads(json.dumps(module.schemas())), "python docs/make_schemas.py writes them anew"
    files = json.loads((ROOT / ".vscode" / "settings.json").read_text())["yaml.schemas"]
    assert files == module.mapping() and {Path(name).stem for name in files} == {*schemas}


def test_every_file_of_conf_is_valid_by_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    checked = 0
    for name, patterns in json.loads((ROOT / ".vscode" / "settings.json").read_text())["yaml.schemas"].items():
        validator = jsonschema.Draft202012Validator(json.loads((ROOT / name).read_text()))
        for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
            content = yaml.safe_load(path.read_text()) or {}
            assert [error.message for error in validator.iter_errors(content)] == [], path
            checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("settings", "lr: -1"),
        ("settings", "data: {batch_size: 1.5}"),
        ("settings", "monitor: {mode: lowest}"),
        ("model", "_target_: lithydra.models.mlp.MLP\nhidden: [0]"),
        ("model", "dropout: 1.5"),
        ("trainer", "precision: bf17"),
    ],
)
def test_a_schema_refuses_what_the_rules_refuse(schema: str, text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    content = json.loads((ROOT / ".vscode" / "schemas" / f"{schema}.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), content)
    jsonschema.validate({"_target_": "mine.Net", "my_own": {"deep": 1}}, content)


def test_help_is_a_screenful_and_names_every_group() -> None:
    text = (CONF / "hydra" / "help" / "train.yaml").read_text().partition("template: |\n")[2]
    assert len(text.splitlines()) <= 30 and max(map(len, text.splitlines())) <= 80 + 2  # YAML's own indent
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra", "paths", "local"}
    assert groups <= set(text.split())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_each_script_has_a_help_of_its_own(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    script = ROOT / "scripts" / f"{verb}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0 and len(lines) <= 40 and max(map(len, lines)) <= 80
    assert f"python scripts/{verb}.py" in lines[0]
    told = {line.partition("=")[0] for line in lines}
    if (file := CONF / f"{VERBS[verb][0]}.yaml").stem != "train":
        settings = yaml.safe_load(file.read_text())
        del settings["defaults"]
        assert {key for key, _ in flatten(settings)} <= told


def test_names_from_elsewhere_lead_to_names_that_there_are(compose: Compose) -> None:
    config = compose("callbacks=[default,early_stopping]")
    for typed in ELSEWHERE.values():
        for word in typed.split():
            key = bare(word)
            known = (CONF / key).is_dir() or key in config or select(config, key) is not None
            assert known or key in NULL_BY_DEFAULT, key


# What a command of the README has that is too much for a test, and what it gets there.
SMALLER: dict[str, list[str]] = {
    "accelerator=gpu": [],
    "model=resnet9": ["model=resnet9", "trainer.max_epochs=2"],
    "trainer.max_seconds=60": ["trainer.max_seconds=2"],
    "study=fashion_mnist/optimizer_and_lr": ["study=fashion_mnist/optimizer_and_lr", "data.limit=160", "seed=0"],
}


def typed() -> list[str]:
    """The commands of the README, in their order."""
    block = (ROOT / "README.md").read_text().partition("## What you type")[2].partition("\n## ")[0]
    lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    commands = [re.sub(r"\s{2,}#.*| +# .*", "", line) for line in lines]
    return [command for command in commands if command.startswith("python ") and "lrr" not in command]


def test_the_readme_says_fifteen_things_to_type() -> None:
    assert 12 <= len(typed()) <= 16


@pytest.fixture
def small_data(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets of the names that the documents say, small ones of the same form."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "digits.npz").symlink_to(data_dir / "digits.npz")
    for name, shape in (("mnist", (28, 28)), ("fashion_mnist", (28, 28)), ("cifar10", (32, 32, 3))):
        write_npz(folder / f"{name}.npz", num_classes=10, shape=shape, num_train=160, num_test=40)
    monkeypatch.setenv("LITHYDRA_DATA", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def exit_code_of(command: str, log: Path) -> int:
    """Of a command that stands in a document, typed in the folder of `log`."""
    _, script, *arguments = shlex.split(command)
    arguments = [text for argument in arguments for text in SMALLER.get(argument, [argument])]

    def run() -> None:
        os.chdir(log.parent)
        sys.argv[:] = [str(ROOT / script), *arguments]
        cli.main(Path(script).stem)

    return in_child(run, log)


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
def test_the_commands_of_the_readme_do_what_they_say(tmp_path: Path) -> None:
    """As they stand, one after the other, in one folder."""
    for number, command in enumerate(typed()):
        log = tmp_path / f"{number}.log"
        assert exit_code_of(command, log) == 0, f"{command}\n{log.read_text()}"
    assert (tmp_path / "outputs" / "index.html").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small_data")
def test_the_python_of_the_documents_runs(tmp_path: Path) -> None:
    """Block by block, where there are the runs and the sweep that they speak of, and a model that was exported."""
    log = tmp_path / "log"
    for command in (
        "python train.py run=outputs/runs/first trainer.max_epochs=2",
        "python train.py run=outputs/runs/NAME trainer.max_epochs=2",
        "python train.py -m lr=0.1,0.01 sweep.name=NAME trainer.max_epochs=1",
        "python scripts/export.py run=outputs/runs/NAME output=model.onnx",
    ):
        assert exit_code_of(command, log) == 0, log.read_text()
    pages = (ROOT / "README.md", ROOT / "docs" / "python.md", ROOT / "docs" / "looking_inside.md")
    blocks = [block for page in pages for block in PYTHON.findall(page.read_text())]
    assert len(blocks) == 5

    def run() -> None:
        os.chdir(tmp_path)
        for block in blocks:
            exec(block, {"torch": torch, "images": np.zeros((2, 1, 8, 8), dtype=np.uint8)})

    assert in_child(run, log) == 0, log.read_text()
