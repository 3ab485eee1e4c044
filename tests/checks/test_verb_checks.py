"""A fuzz of the scripts' own settings: whatever stands in the place of one is taken as it is meant, or is one line."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from conftest import CONF
from lithydra.checks import verbs
from lithydra.checks.messages import one_line
from lithydra.checks.output import distinct_names, output_of, writing
from lithydra.checks.verbs import VERBS, check_verb
from lithydra.errors import ConfigError, LithydraError
from lithydra.overrides import TEXTS, refuse_arguments
from lithydra.run.directory import RunDir
from lithydra.verbs.serve import allowed_hosts

PROMISE = "10. Bad input is refused before training"

# What is put in the place of a setting.
MUTANTS = (
    "{}=null",
    "{}=banana",
    "{}=[1,x]",
    "{}={{a:1}}",
    "{}=99999999999999999999",
    "{}=-1",
    "{}=1.5",
    "{}=true",
    "{}=''",
    "{}=[]",
    "~{}",
    "+{}.new=1",
    "+{}new=1",
    "{}=${{nothing}}",
    "{}=???",
    "{}=" + 300 * "x",  # longer than a file's name may be
)
# Mutants that are what a setting may be; every text is a name of a folder or a machine.
TAKEN = {
    *(f"{key}=null" for key in ("seed", "images", "output", "top_k", "tta", "until")),
    *(f"paths.{name}=banana" for name in ("data", "outputs", "runs", "sweeps")),
    *("sweep=banana", "output=banana", "host=banana", "trainer.devices=99999999999999999999", "trainer.devices=-1"),
    *("num_images=99999999999999999999", "top_k=99999999999999999999", "batch_size=99999999999999999999"),
    *(f"{key}={text}" for key in TEXTS for text in ("null", "banana", 300 * "x")),
    *("note=''", "delete=true", "limit=null", "limit=99999999999999999999", "runs=null", "ask=true", "mistakes=true"),
    *("preprocessing=true", "invert=true", "accelerator.channels_last=true", "trust=[]"),
}


@pytest.fixture
def verb_config(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The verb's config with all that must be given."""
    for name in ("one", "other"):
        run = RunDir(tmp_path / name)
        run.checkpoints.mkdir(parents=True)
        run.config.write_text("trainer: {}\n")
        run.last.touch()
    (tmp_path / "image.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verbs, "require_extra", lambda *names: None)
    given = {
        "compare": ["runs=[one,other]"],
        "runs": ["runs=[one,other]"],
        "predict": ["run=one", "checkpoint=last", "input=image.png"],
        "report": ["sweep=somewhere"],
        "reproduce_run": ["run=one"],
    }.get(verb, ["run=one", "checkpoint=last"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, given)


def dotted(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        node: Any = config._get_node(key)
        yield f"{prefix}{key}"
        if isinstance(node, DictConfig) and not node._is_none():
            yield from dotted(node, f"{prefix}{key}.")


def outcome(verb: str, config: DictConfig, override: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The lines that refuse an override; None where it is taken."""
    monkeypatch.setattr(sys, "argv", [f"{verb}.py", override])
    try:
        refuse_arguments(verb)
        changed = config.copy()
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides([override]), changed)
        check_verb(changed, verb)
    except (LithydraError, HydraException, OmegaConfBaseException) as error:
        return one_line(error)
    return None


@pytest.mark.counted("settings of the scripts: taken as meant, or one line")
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_is_put_in_the_place_of_a_setting_is_taken_as_meant_or_is_one_line(
    verb: str, verb_config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_verb(verb_config, verb)
    taken, unclear = [], {}
    for key in dotted(verb_config):
        for mutant in MUTANTS:
            override = mutant.format(key)
            said = outcome(verb, verb_config, override, monkeypatch)
            if said is None:
                taken.append(override)
            elif not said.strip() or len(said.splitlines()) > 2 or len(said) > 400:
                unclear[override] = said
    assert not unclear
    assert set(taken) <= TAKEN


@pytest.mark.parametrize("verb", ["compare", "explain", "export", "predict"])
def test_a_run_that_cannot_be_written_to_is_one_line_and_output_serves(
    verb: str, verb_config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = (tmp_path / "one").resolve()
    verb_config.paths.outputs = "one"  # where compare writes
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).resolve().is_relative_to(read_only))
    with pytest.raises(ConfigError, match=r"^one/.*: cannot be written; output=FILE puts it elsewhere$"):
        check_verb(verb_config, verb)
    verb_config.output = str(tmp_path / "elsewhere.png")
    verb_config.update({"contact_sheet": 0} if verb == "predict" else {})
    check_verb(verb_config, verb)
    assert output_of(verb, verb_config) == tmp_path / "elsewhere.png"


def test_what_cannot_be_written_after_all_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = {"output": str(tmp_path / "file" / "x.png")}
    message = r"output=.*/file/x\.png: cannot be written: (Not a directory|File exists)$"
    with pytest.raises(ConfigError, match=message), writing(config, Path(config["output"])):
        raise AssertionError("unreachable")


@pytest.mark.parametrize("verb", ["compare"])
def test_a_picture_has_a_name_of_a_picture(verb: str, verb_config: DictConfig) -> None:
    for output, message in {"curves.jpg": r"ends with \.png", "one": "a folder", "no/x.png": "does not exist"}.items():
        verb_config.output = output
        with pytest.raises(ConfigError, match=message):
            check_verb(verb_config, verb)


@pytest.mark.parametrize("verb", ["serve"])
def test_a_used_port_is_one_line(verb: str, verb_config: DictConfig) -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        verb_config.port = used.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^port={verb_config.port}: Address already in use; nothing can be"):
            check_verb(verb_config, verb)


def test_a_foreign_host_header_is_answered_where_all_are_meant_alone() -> None:
    assert "evil.example" not in allowed_hosts("127.0.0.1") and "*" not in allowed_hosts("127.0.0.1")
    assert allowed_hosts("0.0.0.0") == ["*"]


def test_files_of_one_name_are_told_apart() -> None:
    assert distinct_names([Path("a/x/1.png"), Path("a/y/1.png")]) == ["x/1.png", "y/1.png"]
    assert distinct_names([Path("a/x/1.png"), Path("a/y/2.png")]) == ["1.png", "2.png"]
