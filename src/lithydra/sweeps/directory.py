"""What a sweep writes and how it is read back. Torch is not imported here."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from lithydra.errors import ConfigError
from lithydra.files import write_json, write_text
from lithydra.overrides import bare
from lithydra.run.directory import RunDir, now
from lithydra.run.listing import DAMAGED
from lithydra.run.locks import lock_directory, wait_until_free
from lithydra.run.moved import with_moved_names

NOT_STARTED = "not started"
FAILED = ("failed", "diverged")
DONE = ("finished", "pruned")  # a search stops runs without prospects
ENDED = (*DONE, *FAILED)
# What does not make a job another one: where it lies, and how it was asked for.
NEUTRAL = ("run", "resume", "resume_anyway", "trust", "paths", "sweep", "study", "experiment")
JOB_NAME = r"[A-Za-z0-9+_=,@-][A-Za-z0-9+_=,.@-]*"  # never a path: it is a directory or file inside the sweep's


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

    def __post_init__(self) -> None:
        for key in ("key", "name", "run"):
            value = getattr(self, key)
            if not re.fullmatch(JOB_NAME, value):
                raise ConfigError(f"sweep.json: a job's {key} is {value!r}: not a name of letters, digits and =,.+_@-")


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
    created: str = field(default_factory=now)


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
        if not os.path.isdir(path):  # unlike Path's, it takes a name that is too long
            raise ConfigError(
                f"{key}={path}: {'a file, not a directory' if os.path.isfile(path) else 'no such directory'}"
            )
        if not sweep.file.exists():
            raise ConfigError(f"{key}={path}: not a sweep directory (it has no sweep.json)")
        return sweep

    def exists(self) -> bool:
        return self.file.exists()

    def read(self) -> Plan:
        """Raises ConfigError where sweep.json is not what a sweep wrote."""
        try:
            plan: Plan = _made(Plan, json.loads(self.file.read_text()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{self.file}: damaged ({error}); the sweep's command writes it again") from error
        plan.axes = {bare(axis): values for axis, values in plan.axes.items()}
        return plan

    def set_aside(self, path: Path, why: object) -> None:
        """Rename a damaged file, and say so."""
        os.replace(path, path.with_name(f"{path.name}.damaged"))
        print(f"{why}; it is now {path.name}.damaged", flush=True)

    def write(self, plan: Plan) -> None:
        write_json(self.file, asdict(plan))

    def add(self, plan: Plan, job: Job, config: Mapping[str, Any]) -> None:
        """Freeze a job's config and put the job into `plan`; `write` it when all are in."""
        self.freeze(job, config)
        plan.jobs.append(job)

    def freeze(self, job: Job, config: Mapping[str, Any]) -> None:
        self.configs.mkdir(exist_ok=True)
        write_text(self.config_file(job), yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def config_file(self, job: Job) -> Path:
        return self.configs / f"{job.key}.yaml"

    def config(self, job: Job) -> dict[str, Any]:
        """The frozen, resolved config of a job. Raises ConfigError where it is not the one that was frozen."""
        path = self.config_file(job)
        try:
            config = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: damaged ({' '.join(str(error).split())})") from error
        if not isinstance(config, dict) or config_key(config) != job.key:
            raise ConfigError(f"{path}: damaged (not what was frozen there)")
        return with_moved_names(config)

    def job(self, name: str) -> Job:
        return next(job for job in self.read().jobs if job.name == name)

    def holds_another(self, name: str, key: str) -> bool:
        """Whether the directory `name` has a run of another config than that of `key`."""
        run = RunDir(self.path / name)
        try:
            return run.config.exists() and config_key(run.read_config()) != key
        except ConfigError:
            return True

    def run(self, job: Job) -> RunDir:
        return RunDir(self.path / job.run)

    def status(self, job: Job) -> dict[str, Any]:
        """What the job's status.json says; where it cannot be read, the state `damaged` and the reason."""
        run = self.run(job)
        try:
            status = run.read_status()
        except ConfigError as error:
            return {"state": DAMAGED, "error": str(error)}
        for key, kind in STATUS.items():
            if key in status and not _fits(status[key], kind):
                return {"state": DAMAGED, "error": f"{run.status}: damaged ({key} is {status[key]!r})"}
        return status

    def state(self, job: Job) -> str:
        """finished, pruned, failed, diverged, interrupted, running, damaged, or `not started`."""
        return self.status(job).get("state", NOT_STARTED)

    def objective(self, job: Job, plan: Plan) -> float | None:
        """The monitored metric at the best epoch so far; None where it was never measured."""
        return self.status(job).get("metrics", {}).get(plan.objective["metric"])

    def clear(self) -> None:
        """Remove the jobs and the plan. Files of other origin stay."""
        for job in self.read().jobs:
            shutil.rmtree(self.path / job.run, ignore_errors=True)
        shutil.rmtree(self.configs, ignore_errors=True)
        self.file.unlink(missing_ok=True)

    def in_use(self) -> bool:
        """Whether a process has it, as far as this one may look."""
        try:
            return not wait_until_free(RunDir(self.path))
        except OSError:
            return False

    @contextmanager
    def owned(self, wait_seconds: float = 0) -> Iterator[None]:
        """Take the directory for this process. The lock of a dead process falls by itself."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.sweeps={self.path.parent}: cannot be written: {error.strerror}") from error
        with lock_directory(self.path, f"sweep.name={self.path.name}", wait_seconds):
            yield


# Of what a status.json holds, what is read here.
STATUS = {
    "state": str,
    "metrics": dict[str, float | int],
    "epoch": int,
    "best_epoch": int | None,
    "error": str | None,
}


def _made(cls: Any, content: Any) -> Any:
    """A Plan or Job from JSON. Raises TypeError where that has other fields, or other types in them."""
    if not isinstance(content, dict):
        raise TypeError(f"{cls.__name__.lower()} is {content!r}")
    kinds = get_type_hints(cls)
    if cls is Plan:
        jobs = content.get("jobs")
        content = {**content, "jobs": [_made(Job, job) for job in jobs] if isinstance(jobs, list) else jobs}
    for key, value in content.items():
        if key in kinds and not _fits(value, kinds[key]):
            raise TypeError(f"{key} is {value!r}")
    made = cls(**content)
    if cls is Plan and not {"metric", "mode"} <= made.objective.keys():
        raise TypeError(f"objective is {made.objective!r}")
    return made


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from JSON is of an annotated type."""
    if kind is Any:
        return True
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    return isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)


def config_key(config: Mapping[str, Any]) -> str:
    """Hash of all that makes a resolved config this job and no other."""
    text = json.dumps(deciding(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a resolved config, all that makes it this job and no other."""
    kept = {key: value for key, value in config.items() if key not in NEUTRAL}
    if isinstance(callbacks := kept.get("callbacks"), dict):  # a search has its own beside them
        kept["callbacks"] = {key: value for key, value in callbacks.items() if key != "report_to_trial"}
    return kept


def readable_name(settings: Mapping[str, str], taken: Sequence[str] = (), empty: str = "run") -> str:
    """`key=value,…` sorted by key, as a file name that every file system takes and that is not among `taken`.

    Brackets and quotes go, commas inside a value become dashes, and past 100 characters a hash takes the place of the
    rest.
    """
    parts = [f"{_safe(key)}={_safe(value)}" for key, value in sorted(settings.items())]
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
    return re.sub(r"[^A-Za-z0-9.+_@-]+", "-", bare).strip(".") or "empty"
