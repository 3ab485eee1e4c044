"""Extras install with the versions that the docs name; an installed package finds conf/; Windows can import it all."""

import os
import re
import runpy
import signal
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import CONF, ROOT
from lithydra.checks.extras import OWN_CONSTRAINTS, require_extra
from lithydra.errors import ConfigError
from lithydra.overrides import find_conf

SECTION = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]\n")[1].partition("\n\n")[0]
EXTRAS = re.findall(r"(?m)^(\w+) = \[", SECTION)
# `pip install -c FILE -e ".[EXTRA]"`
INSTALL = re.compile(r"""pip install -c (constraints\S*\.txt) -e ['"]\.\[(\w+)\]['"]""")
TOLD = {
    (extra, name)
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CONF.rglob("*.yaml"))
    for name, extra in INSTALL.findall(path.read_text())
}
POSIX_SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGKILL", "SIGCHLD", "SIGALRM", "SIGQUIT", "set_wakeup_fd")


def pins(name: str, python: str = "3.11") -> dict[str, str]:
    """Versions by package, of those lines that hold for this Python."""
    lines = [Requirement(line) for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    chosen = [line for line in lines if line.marker is None or line.marker.evaluate({"python_version": python})]
    assert len(chosen) == len({line.name for line in chosen})
    return {line.name: str(line.specifier).removeprefix("==") for line in chosen}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_name_every_dependency_on_each_python(python: str) -> None:
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins("constraints.txt", python)}
    needed = re.findall(r'"([\w-]+)', (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0])
    assert len(needed) > 15 and pinned >= {*needed}


def test_every_extra_is_told_with_its_constraints() -> None:
    own = {extra for extra in EXTRAS if (ROOT / f"constraints-{extra}.txt").is_file()}
    assert len(EXTRAS) > 8 and own == {*OWN_CONSTRAINTS} == {"ray", "serve", "trackio"}
    assert {(extra, f"constraints-{extra}.txt" if extra in own else "constraints.txt") for extra in EXTRAS} == TOLD


def test_extras_with_constraints_of_their_own_are_those_that_clash() -> None:
    common = pins("constraints.txt")
    for name, clashing in (("ray", {"cloudpickle", "joblib"}), ("serve", {"pillow"}), ("trackio", {"pillow"})):
        own = pins(f"constraints-{name}.txt")
        assert {package for package in own if common.get(package, own[package]) != own[package]} == clashing


@pytest.mark.parametrize(("extra", "name"), sorted(TOLD))
def test_missing_extra_names_its_constraints(extra: str, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f'this needs pip install -c {name} -e ".[{extra}]"')):
        require_extra(extra, "no_such_package")


@pytest.mark.parametrize("script", ["train.py", "scripts/evaluate.py"])
def test_conf_is_found_from_an_installed_package(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / script)])
    assert find_conf() == tmp_path / "conf"


def test_no_module_needs_posix_to_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POSIX_SIGNALS:
        monkeypatch.delattr(signal, name)
    for name in ("uname", "fork", "setpgid", "killpg", "getuid"):
        monkeypatch.delattr(os, name)
    for name in ("fcntl", "resource", "pwd", "termios", "pty"):
        monkeypatch.setitem(sys.modules, name, None)
    modules = sorted((ROOT / "src").rglob("*.py"))
    assert len(modules) > 60
    for module in modules:
        runpy.run_path(str(module))
