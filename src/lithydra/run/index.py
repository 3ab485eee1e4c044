"""index.html beside the runs: all of them on one page that opens from a file. Its rows stand in the page itself."""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lithydra.errors import LithydraError
from lithydra.files import as_json, write_text
from lithydra.run.directory import RunDir, now
from lithydra.run.listing import Listed, find_runs, listed, started
from lithydra.run.metric_names import BETTER
from lithydra.run.rendering import TEMPLATES, render

log = logging.getLogger(__name__)

ROWS = re.compile(r'<script type="application/json" id="runs">(.*?)</script>', re.DOTALL)
LOCK_SECONDS = 5.0
COLUMNS = {field.name for field in fields(Listed)}


def path_in(folder: Path) -> Path:
    return folder / "index.html"


def write(folder: Path, rows: Sequence[Listed]) -> Path:
    """Write the page of all runs below `folder` anew."""
    return _write(folder, [as_json(row.plain()) for row in rows])


def _write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    content = {
        "rows": sorted(rows, key=lambda row: started(row["started"]), reverse=True),
        "higher": [name for name, mode in BETTER.items() if mode == "max"],
        "lower": [name for name, mode in BETTER.items() if mode == "min"],
        "written": now(),
    }
    write_text(path_in(folder), render(TEMPLATES / "index.html.j2", content))
    return path_in(folder)


def update(folder: Path, runs: Sequence[RunDir]) -> None:
    """Bring the rows of some runs up to date, and of those that were running; the others stay as they were read.

    A page that cannot be written is no reason for a run to fail: it is said.
    """
    inside = {run.path.resolve(): run for run in runs if run.path.resolve().is_relative_to(folder.resolve())}
    if not inside:
        return
    try:
        with FileLock(folder / ".index.lock", timeout=LOCK_SECONDS):
            before = _rows(folder)
            if before is None:
                if rows := [listed(run, folder) for run in find_runs(folder)]:
                    write(folder, rows)
                return
            named = {os.path.relpath(path, folder.resolve()) for path in inside}
            stale = {row["run"] for row in before if row["state"] == "running"} | named
            kept = [row for row in before if row["run"] not in stale and os.path.isdir(folder / row["run"])]
            again = [listed(RunDir(folder / name), folder) for name in sorted(stale) if (folder / name).is_dir()]
            _write(folder, [*(as_json(row.plain()) for row in again), *kept])
    except (OSError, Timeout, LithydraError) as error:
        log.warning("%s: not brought up to date: %s", path_in(folder), error)


def _rows(folder: Path) -> list[dict[str, Any]] | None:
    """Those of the page that is there; None where there is none of this version."""
    try:
        text = ROWS.search(path_in(folder).read_text())
        rows = json.loads(text[1]) if text else None
        return rows if rows is not None and all(row.keys() == COLUMNS for row in rows) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None
