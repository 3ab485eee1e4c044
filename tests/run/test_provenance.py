"""The code that a run ran is recorded: committed, changed, or not yet known to git."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lithydra.run import provenance
from lithydra.run.provenance import git_state

PROMISE = "17. What was run is recorded"


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "core.autocrlf=false")
    done = subprocess.run(["git", "-C", folder, *settings, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Of a project with one committed model."""
    top = tmp_path / "checkout"
    for name, text in (("src/own/old.py", "WIDTH = 1\n"), (".gitignore", "*.log\n"), ("conf/model/old.yaml", "a: 1\n")):
        write(top / name, text)
    git(tmp_path, "init", "-q", str(top))
    git(top, "add", "-A")
    git(top, "commit", "-qm", "x")
    return top


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("content", ["a = 1\nb = 2\n", "a = 1\n\nno end", "", "\n", "form\x0cfeed\r\n", "grün\n"])
def test_a_new_file_is_recorded_and_comes_back(checkout: Path, content: str) -> None:
    changed = {"src/own/new.py": content, "conf/model/new.yaml": "b: 2\n", "src/own/old.py": "WIDTH = 2\n"}
    changed |= {"own.py": "DEPTH = 1\n", "nets/own.py": content}
    for name, text in changed.items():
        write(checkout / name, text)
    state = git_state(checkout / "src" / "own")
    assert state["commit"] == git(checkout, "rev-parse", "HEAD") and state["diff"]
    git(checkout, "reset", "-q", "--hard")
    git(checkout, "clean", "-fdq")
    (checkout / "all.log").write_bytes(state["diff"].encode())
    git(checkout, "apply", "all.log")
    assert {name: (checkout / name).read_bytes().decode() for name in changed} == changed


def test_other_files_are_not_recorded(checkout: Path) -> None:
    for name in ("src/own/a.log", "notes.txt", "outputs/run.txt", "env/lib/site-packages/torch.py"):
        write(checkout / name, "text\n")
    assert git_state(checkout / "src" / "own")["diff"] == ""


def test_of_long_and_binary_files_there_is_a_checksum(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LONGEST_FILE", 100)
    write(checkout / "src/own/long.py", "x" * 101)
    write(checkout / "src/own/weights.bin", b"\0\1\2")
    diff = git_state(checkout / "src" / "own")["diff"]
    assert diff and "b/src/own/long.py differ: 101 bytes, SHA-256 " in diff and "xxxx" not in diff
    assert "b/src/own/weights.bin differ: 3 bytes, SHA-256 ae4b3280e56e2faf83f414a6e3dabe9d5fbe18976544c05f" in diff


def test_outside_of_git_there_is_no_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "diff": None}


@pytest.fixture
def server(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The checkout, of which a server has imported one module."""
    monkeypatch.setattr(provenance, "PACKAGE", checkout / "src" / "own")
    monkeypatch.setattr(provenance, "_start", None)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(checkout / "src")
    importlib.import_module("own.old")
    provenance.note_start()
    yield checkout
    for name in ("own", "own.old", "own.new"):
        sys.modules.pop(name, None)


def test_a_job_records_the_state_that_its_server_started_from(server: Path) -> None:
    assert provenance.code() == git_state(server)


def test_a_job_records_what_it_imported_from_a_later_state(server: Path) -> None:
    before = git_state(server)
    write(server / "src/own/old.py", "WIDTH = 2\n")
    write(server / "src/own/new.py", "DEPTH = 3\n")
    importlib.import_module("own.new")
    code = provenance.code()
    later = code.pop("later")
    assert code == before and later.pop("modules") == ["own.new"]
    assert later == git_state(server) != before
    assert "+DEPTH = 3" in later["diff"] and "+WIDTH = 2" in later["diff"]
