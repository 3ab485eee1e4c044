"""Where a run comes from: code, packages, machine, data. Enough to say later why two runs differ."""

import hashlib
import logging
import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from lithydra.errors import LithydraError
from lithydra.run.directory import RunDir

PACKAGE = Path(__file__).parents[1]
log = logging.getLogger(__name__)


def provenance(
    seed: int, choices: dict[str, str], overrides: list[str], data: dict[str, Any], trainer: dict[str, Any]
) -> dict[str, Any]:
    """What provenance.json holds. `data` and `trainer` are facts that only the run knows."""
    return {
        "command": sys.argv,
        "choices": choices,
        "overrides": overrides,
        "seed": seed,
        "git": code(),
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
        "data": data,
        "trainer": trainer,
    }


def all_choices(run: RunDir, choices: dict[str, str], overrides: list[str]) -> dict[str, str]:
    """The option taken in each config group: of a resumed run its own, but for those that `overrides` name."""
    parts = run.origins()
    if not parts:
        return choices
    named = {override.lstrip("+~").split("=")[0].split("@")[0] for override in overrides}
    return {**parts[-1]["choices"], **{group: choice for group, choice in choices.items() if group in named}}


def all_overrides(run: RunDir) -> list[str]:
    """Of all the commands that a run was trained with, the first one's first."""
    return [override for part in run.origins() for override in part["overrides"]]


def threads_of(run: RunDir) -> int | None:
    """Those that a run was trained with so far, if that is known."""
    try:
        parts = run.origins()
    except LithydraError:  # damaged: who takes the run up again says so, and makes what can be made of it
        return None
    return parts[-1]["hardware"].get("torch_threads") if parts else None


def warn_of_threads(run: RunDir) -> None:
    """A sum of many numbers depends on how many threads add them."""
    now, before = torch.get_num_threads(), threads_of(run)
    if before not in (None, now):
        log.warning(
            "Trained with %d threads so far and with %d from here: results may differ in their last bits from those of "
            "a run that never stopped. OMP_NUM_THREADS=%d keeps the number",
            *(before, now, before),
        )


@cache  # it takes a while, and a sweep's jobs are forked from a process that knows it
def packages() -> dict[str, str]:
    return {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}


# A person's own code, at any depth of the checkout; packages of an environment that git does not ignore are none.
OWN_CODE = (":(glob)**/*.py", ":(glob)**/src/**", ":(glob)**/conf/**", ":(exclude,glob)**/site-packages/**")
LONGEST_FILE = 2**18  # bytes, of an untracked file that is recorded with its content


def git_state(folder: Path) -> dict[str, str | None]:
    """Commit and uncommitted changes of the checkout that `folder` is in; None where there is no git.

    A Python file that git does not know yet, and any file below src/ or conf/, is a change, too: a person's new model
    is one.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.decode(errors="replace")

    top, _, commit = (git("rev-parse", "--show-toplevel", "HEAD") or "").strip().partition("\n")
    if not commit:
        return {"commit": None, "diff": None}
    diff = git("diff", "--no-color", "--no-ext-diff", "HEAD") or ""
    listed = git("-C", top, "ls-files", "-z", "--others", "--exclude-standard", "--", *OWN_CODE) or ""
    new = (_as_new(Path(top), name) for name in listed.split("\0") if name)
    return {"commit": commit, "diff": diff + "".join(new)}


def _as_new(top: Path, name: str) -> str:
    """An untracked file as `git diff` would show it if it were added; of one that is long or no text, a checksum."""
    try:
        content = (top / name).read_bytes() if (top / name).is_file() else b""
    except OSError as error:
        content = f"cannot be read: {error.strerror}".encode()
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    if len(content) > LONGEST_FILE or b"\0" in content:
        checksum = hashlib.sha256(content).hexdigest()
        return f"{head}Binary files /dev/null and b/{name} differ: {len(content):,} bytes, SHA-256 {checksum}\n"
    lines = re.findall(r"[^\n]*\n|[^\n]+", content.decode(errors="replace"))
    if not lines:
        return head
    end = "" if lines[-1].endswith("\n") else "\n\\ No newline at end of file\n"
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n+{'+'.join(lines)}{end}"


@dataclass(frozen=True)
class _Start:
    """What a process had imported, and out of which state of the checkout, before it forked others."""

    git: dict[str, Any]
    modules: frozenset[str]


_start: _Start | None = None


def note_start() -> None:
    """To be called when a process that jobs are forked from has imported what they have in common."""
    global _start
    _start = _Start(git_state(PACKAGE), frozenset(sys.modules))


def code() -> dict[str, Any]:
    """The state of the checkout that this process's code comes from.

    Where the checkout has changed since the process was forked from a server, the server's state, and below `later`
    the one that `modules` were imported from, which the server had not imported yet.
    """
    now = git_state(PACKAGE)
    if _start is None or now == _start.git:
        return now
    new = (name for name, module in sorted(sys.modules.items()) if name not in _start.modules and _is_own(module))
    return {**_start.git, "later": {**now, "modules": list(new)}}


def _is_own(module: object) -> bool:
    """Whether a module is neither Python's nor an installed package's."""
    file = getattr(module, "__file__", None)
    return bool(file) and "-packages" not in file and not file.startswith(sysconfig.get_path("stdlib"))


def hardware() -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
