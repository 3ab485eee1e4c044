"""What a sweep writes and how it is read back. Torch is not imported here."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from lithydra.errors import ConfigError
from lithydra.run_dir import RunDir, write_json

NOT_STARTED = "not started"
FAILED = ("failed", "diverged")
DONE = ("finished", "pruned")  # a search stops runs without prospects
ENDED = (*DONE, *FAILED)
# What does not make a job another one: where it lies, and how it was asked for.
NEUTRAL = ("run", "resume", "resume_anyway", "paths", "sweep", "study", "experiment")


@dataclass(frozen=True)
class Job:
    """One point of a sweep.

    Attributes:
        key: hash of the resolved config; two jobs with the same key are the same job.
        name: its varied overrides, readable and safe as a file name; unique in the sweep.
        overrides: all that it differs by from conf/, as `key=value`.
        run: name of its run directory inside the sweep's.
        choices: the option taken in each config group.
    """

    key: str
    name: str
    overrides: list[str]
    run: str
    choices: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """What sweep.json holds.

    Attributes:
        objective: {"metric": "val/acc", "mode": "max"}.
        axes: what varies: override key -> its values as strings, in order.
        common: overrides that do not vary.
        study: the mapping `study` of a study file, or None.
        invocation: of the command that ran last: its jobs' names and `on_error`.
    """

    name: str
    command: list[str]
    objective: dict[str, str]
    axes: dict[str, list[str]] = field(default_factory=dict)
    common: list[str] = field(default_factory=list)
    study: dict[str, Any] | None = None
    jobs: list[Job] = field(default_factory=list)
    invocation: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))


class SweepDir:
    """The directory of one sweep. Its jobs' run directories lie directly inside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "sweep.json"
        self.configs = path / "configs"

    @classmethod
    def open(cls, path: Path, key: str = "sweep") -> "SweepDir":
        """An existing sweep. Raises ConfigError, naming `key`, where there is none."""
        sweep = cls(path)
        if not path.is_dir():
            raise ConfigError(f"{key}={path}: {'a file, not a directory' if path.is_file() else 'no such directory'}")
        if not sweep.file.exists():
            raise ConfigError(f"{key}={path}: not a sweep directory (it has no sweep.json)")
        return sweep

    def exists(self) -> bool:
        return self.file.exists()

    def read(self) -> Plan:
        content = json.loads(self.file.read_text())
        return Plan(**{**content, "jobs": [Job(**job) for job in content["jobs"]]})

    def write(self, plan: Plan) -> None:
        write_json(self.file, asdict(plan))

    def add(self, plan: Plan, job: Job, config: Mapping[str, Any]) -> None:
        """Freeze a job's config and put the job into `plan`; `write` it when all are in."""
        self.configs.mkdir(exist_ok=True)
        path = self.configs / f"{job.key}.yaml"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        os.replace(temporary, path)
        plan.jobs.append(job)

    def config(self, job: Job) -> dict[str, Any]:
        """The frozen, resolved config of a job."""
        return yaml.safe_load((self.configs / f"{job.key}.yaml").read_text())

    def job(self, name: str) -> Job:
        return next(job for job in self.read().jobs if job.name == name)

    def run(self, job: Job) -> RunDir:
        return RunDir(self.path / job.run)

    def state(self, job: Job) -> str:
        """finished, pruned, failed, diverged, interrupted, running, or `not started`."""
        return self.run(job).read_status().get("state", NOT_STARTED)

    def objective(self, job: Job, plan: Plan) -> float | None:
        """The monitored metric at the best epoch so far; None where it was never measured."""
        return self.run(job).read_status().get("metrics", {}).get(plan.objective["metric"])

    def clear(self) -> None:
        """Remove the jobs and the plan. Files of other origin stay."""
        for job in self.read().jobs:
            shutil.rmtree(self.path / job.run, ignore_errors=True)
        shutil.rmtree(self.configs, ignore_errors=True)
        self.file.unlink(missing_ok=True)

    @contextmanager
    def owned(self, wait_seconds: float = 0) -> Iterator[None]:
        """Take the directory for this process. The lock of a dead process falls by itself."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.sweeps={self.path.parent}: cannot be written: {error.strerror}") from error
        lock = FileLock(self.path / ".lock")
        owner = self.path / ".owner"
        try:
            lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            who = owner.read_text().strip() if owner.exists() else "another process"
            raise ConfigError(f"sweep.name={self.path.name}: in use by {who}") from error
        try:
            owner.write_text(f"process {os.getpid()} on {os.uname().nodename}\n")
            yield
        finally:
            lock.release()


def wait_until_free(run: RunDir, seconds: float) -> bool:
    """Whether no process trains in `run`, or ceases to within `seconds`."""
    if not run.path.is_dir():
        return True
    end = time.monotonic() + seconds
    try:
        with FileLock(run.path / ".lock", timeout=max(0.0, end - time.monotonic())):
            return True
    except Timeout:
        return False


def config_key(config: Mapping[str, Any]) -> str:
    """Hash of all that makes a resolved config this job and no other."""
    kept = {key: value for key, value in config.items() if key not in NEUTRAL}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def readable_name(settings: Mapping[str, str], taken: Sequence[str] = (), empty: str = "run") -> str:
    """`key=value,…` sorted by key, as a file name that every file system takes and that is not among `taken`.

    Brackets and quotes go, commas inside a value become dashes, and past 100 characters a hash takes the place of the
    rest.
    """
    parts = [f"{key}={_safe(value)}" for key, value in sorted(settings.items())]
    text = ",".join(parts).strip(". ") or empty
    if len(text) > 100:
        text = f"{text[:90].rstrip('.,=- ')}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    folded = {name.casefold() for name in taken}  # some file systems do not tell a from A
    name, number = text, 1
    while name.casefold() in folded:
        number += 1
        name = f"{text}_{number}"
    return name


def _safe(value: str) -> str:
    bare = re.sub(r"[\[\]{}()'\"\s]", "", value).replace(",", "-")
    return re.sub(r"[^A-Za-z0-9.+_-]+", "-", bare).strip(".") or "empty"
