"""All runs below a folder, each as one row of what its directory holds: there is no other record of them."""

import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lithydra.errors import ConfigError
from lithydra.files import write_json
from lithydra.overrides import bare
from lithydra.run.directory import YAML_LOADER, RunDir, training_seconds
from lithydra.run.locks import wait_until_free

TRASH = "trash"  # folder of deleted runs, beside runs/ and sweeps/
KILLED = "killed"  # what status.json calls running, and no process owns
DAMAGED = "damaged"  # status.json cannot be read
STATES = ("finished", "failed", "diverged", "interrupted", "pruned", "running", KILLED, DAMAGED)
CURVE_POINTS = 60  # of a sparkline, at most
# Overrides that say where a run lies and how it was shown, not what it is.
ABOUT_PLACE = re.compile(r"(run|resume|paths\..*|sweep\..*|hydra[./].*|logger\..*|callbacks\.progress_bar.*)$")


@dataclass
class Listed:
    """One run among others.

    Attributes:
        run: its directory, relative to the folder that is listed.
        state: of status.json; `killed` where its process is gone, `damaged` where it cannot be read.
        data, model: choices of these groups; of a person's own LightningModule, the module's.
        settings: what it was given that conf/ does not say, the command line's overrides.
        metric: the one that is monitored, as val/acc; None where that is not known.
        best_epoch: by `metric`; None where nothing was validated.
        metrics: of the best epoch, or else of the last one; and of the test split.
        seconds: of training.
        started: as ISO 8601.
        curve: `metric` by epoch, at most 60 finite values; where it was not measured, the training loss.
        page: whether it has a run.html.
        sweep: directory of the sweep that it is a job of, relative as `run` is.
    """

    run: str
    state: str
    data: str = ""
    model: str = ""
    settings: list[str] = field(default_factory=list)
    metric: str | None = None
    best_epoch: int | None = None
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    started: str | None = None
    tags: list[str] = field(default_factory=list)
    note: str = ""
    error: str | None = None
    curve: list[float] = field(default_factory=list)
    page: bool = False
    sweep: str | None = None

    def plain(self) -> dict[str, Any]:
        return vars(self)


def find_runs(folder: Path) -> Iterator[RunDir]:
    """Every run directory below `folder`, but for those in its trash."""
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            found = {entry.name: entry for entry in entries}
            if "status.json" in found or "config.yaml" in found:
                yield RunDir(Path(next(iter(found.values())).path).parent)
                continue
            waiting += [
                Path(entry.path)
                for name, entry in found.items()
                if entry.is_dir(follow_symlinks=False) and name != TRASH and not name.startswith(".")
            ]


def listed(run: RunDir, folder: Path) -> Listed:
    """What the directory of a run tells of it. Of what is damaged, the rest is told."""
    name = os.path.relpath(run.path, folder)
    try:
        status, parts = run.read_status(), run.origins()
        labels = read_labels(run)
        rows = run.read_metrics()
    except ConfigError as error:
        return Listed(name, DAMAGED, error=str(error))
    choices: dict[str, Any] = parts[-1]["choices"] if parts else {}
    own_module = choices.get("module", "none") != "none"
    metric = monitored(run)
    curve = [row[metric] for row in rows if row.get(metric)] if metric else []
    curve = curve or [row["train/loss"] for row in rows if row.get("train/loss")]
    return Listed(
        name,
        live_state(run, str(status.get("state", "not started"))),
        data=str(choices.get("data", "")),
        model=str(choices.get("module" if own_module else "model", "")),
        settings=_settings(text for part in parts for text in part["overrides"]),
        metric=metric,
        best_epoch=status.get("best_epoch"),
        epoch=status.get("epoch", 0),
        metrics=status.get("metrics", {}),
        seconds=training_seconds(rows),
        started=status.get("started"),
        tags=labels["tags"],
        note=labels["note"],
        error=status.get("error"),
        curve=thinned([value for value in map(float, curve) if math.isfinite(value)]),
        page=run.page.exists(),
        sweep=os.path.dirname(name) if (run.path.parent / "sweep.json").exists() else None,
    )


def _settings(overrides: Iterable[str]) -> list[str]:
    """Those that do not say where the run lies; of a setting that was given again when it was resumed, the last."""
    return [text for key, text in {bare(text): text for text in overrides}.items() if not ABOUT_PLACE.match(key)]


def live_state(run: RunDir, state: str) -> str:
    """`state`, or `killed` where it is running and no process owns the directory."""
    with suppress(OSError):  # of a directory that cannot be written, nobody can tell
        return KILLED if state == "running" and wait_until_free(run) else state
    return state


def monitored(run: RunDir) -> str | None:
    """The name in config.yaml of the metric that is monitored, read without the rest of the file."""
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        text = run.config.read_text()
        if plain := re.search(r"^monitor:\n(?:  .*\n)*?  metric: ([\w/.-]*[A-Za-z][\w/.-]*)$", text, re.MULTILINE):
            return plain[1]  # without YAML's parser: listings are long
        block = re.search(r"^monitor:\n(?:  .*\n)+", text, re.MULTILINE)
        return str(yaml.load(block[0], YAML_LOADER)["monitor"]["metric"]) if block else None
    return None


def thinned(values: list[float], most: int = CURVE_POINTS) -> list[float]:
    """At most `most` of the values, evenly over the list with its ends; to four digits, for a line that is drawn."""
    if len(values) > most:
        values = [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]
    return [float(f"{value:.4g}") for value in values]


def started(text: object) -> datetime:
    """When a run began, by its status; 1970 where that is not known. To sort by."""
    with suppress(ValueError, TypeError):
        return datetime.fromisoformat(str(text)).astimezone()
    return datetime.fromtimestamp(0).astimezone()


def read_labels(run: RunDir) -> dict[str, Any]:
    """The tags and the note that a person has put on a run."""
    labels = run.read_json(run.labels, {"tags": list, "note": str})
    return {"tags": [str(tag) for tag in labels.get("tags", [])], "note": str(labels.get("note", ""))}


def label(run: RunDir, *, add: Iterable[str] = (), remove: Iterable[str] = (), note: str | None = None) -> None:
    """Put tags on a run, take tags off, and note something; beside status.json, which a running process writes."""
    labels = read_labels(run)
    tags = [tag for tag in dict.fromkeys([*labels["tags"], *add]) if tag not in set(remove)]
    write_json(run.labels, {"tags": tags, "note": labels["note"] if note is None else note})


def move_to_trash(directory: Path, folder: Path) -> Path:
    """Move a run or a sweep out of sight, to its place in `folder`, below trash/DATE_TIME; returns where it is now.

    Raises:
        ConfigError: A process trains in it.
    """
    in_use = f"{directory}: a process trains in it; it is not deleted"
    if not all(wait_until_free(run) for run in find_runs(directory)):
        raise ConfigError(in_use)
    held = FileLock(directory / ".lock", timeout=0)
    try:
        held.acquire()
    except Timeout as error:
        raise ConfigError(in_use) from error
    try:
        path, root = directory.resolve(), folder.resolve()
        place = path.relative_to(root) if path.is_relative_to(root) else path.name
        target = folder / TRASH / f"{datetime.now():%Y-%m-%d_%H-%M-%S}" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(directory, target)
    finally:
        held.release()
    return target
