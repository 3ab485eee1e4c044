"""Paths reach Hydra as they were typed; values get the type that they stand for."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lithydra.overrides import name_paths, quote_paths, typed


@pytest.mark.parametrize(
    "path",
    ["sweeps/s/lr=0.1,optimizer=sgd", "IMG (1).png", "it's", "a,b", "ä/[1]*.png", "2026", "C:\\new\\", "a\\'b", "x y~"],
)
def test_paths_are_taken_as_they_are(path: str) -> None:
    for key in ("run", "resume", "input", "output", "sweep"):
        (argument,) = quote_paths([f"{key}={path}"])
        override = OverridesParser.create().parse_override(argument)
        assert (override.key_or_group, override.value(), override.is_sweep_override()) == (key, path, False)


def test_other_settings_stay_as_they_are(tmp_path: Path) -> None:
    there, absent = tmp_path / "a,b", tmp_path / "c,d"
    there.mkdir()
    same = [
        "lr=0.1,0.2",
        "run=null",
        "run='a b'",
        "run=${paths.runs}/x",
        "run=outputs/runs/x",
        f"init.from={absent}",
        "-m",
    ]
    assert quote_paths([*same, f"init.from={there}"]) == [*same, f"init.from='{there}'"]


def test_home_is_a_persons_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert quote_paths(["run=~/x"]) == ["run='/home/someone/x'"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("3", 3), ("true", True), ("adam", "adam"), ("[64, 32]", "[64,32]"), ("'a b'", "a b")],
)
def test_axis_values_have_the_type_that_they_stand_for(text: str, value: object) -> None:
    assert typed(text) == value and type(typed(text)) is type(value)


def test_a_directory_without_a_key_is_the_one_that_a_verb_takes(tmp_path: Path) -> None:
    job = tmp_path / "lr=0.1,optimizer=sgd"
    job.mkdir()
    assert name_paths(["outputs/runs/x", "tta=flip"], "run") == ["tta=flip", "run='outputs/runs/x'"]
    assert name_paths([str(job)], "run") == [f"run='{job}'"]
    assert name_paths(["a", "--json", str(job)], "runs") == ["--json", f"runs=['a','{job}']"]
    for unclear in (["run=x", "test"], ["x", "test"], ["tta=flip"]):
        assert name_paths(unclear, "run") == unclear
