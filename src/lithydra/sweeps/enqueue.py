"""A sweep's plan, opened or begun, and points that become its jobs, each once."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from lithydra.errors import ConfigError
from lithydra.overrides import bare
from lithydra.run.config import flatten
from lithydra.sweeps.directory import Job, Plan, SweepDir, deciding, readable_name
from lithydra.sweeps.plan import Prepared, Request


def refuse_foreign(directory: SweepDir) -> None:
    """Raise ConfigError where files lie in `directory` that are not of a sweep, nor of one that has lost its plan."""
    path = directory.path
    if not path.exists() or directory.exists() or any(path.glob(f"configs/{'[0-9a-f]' * 16}.yaml")):
        return
    if any(not child.name.startswith(".") for child in path.iterdir()):
        raise ConfigError(f"sweep.name={path.name}: {path} holds something else than a sweep")


def opened_plan(directory: SweepDir, request: Request, monitor: DictConfig) -> Plan:
    """The plan in `directory`, or a new one, with the values that `request` adds to its axes.

    Raises:
        ConfigError: The jobs of the existing plan differ from the request's by more than their axes.
    """
    plan = _existing_plan(directory)
    if plan is None:
        objective = {"metric": str(monitor.metric), "mode": str(monitor.mode)}
        plan = Plan(directory.path.name, ["python", *sys.argv], objective, common=request.common)
    given, before = set(request.common), set(plan.common)
    if given != before:
        raise ConfigError(
            f"sweep.name={plan.name}: its jobs have {_shown_list(before - given)}, this command has "
            f"{_shown_list(given - before)}. Take another sweep.name, or sweep.fresh=true"
        )
    for key, values in request.axes.items():
        plan.axes[bare(key)] = list(dict.fromkeys([*plan.axes.get(bare(key), []), *values]))
    return plan


def _existing_plan(directory: SweepDir) -> Plan | None:
    """None where there is none, or no more: then its jobs are found again by name and config, as they come."""
    if not directory.exists():
        return None
    try:
        return directory.read()
    except ConfigError as error:
        directory.set_aside(directory.file, error)
        return None


def enqueue(directory: SweepDir, plan: Plan, prepared: Sequence[Prepared], changed: set[str]) -> list[Job]:
    """The job of each point: an existing one of the same config or overrides, or a new one in `plan`, frozen.

    Args:
        changed: What conf/ gives otherwise now than to jobs that new ones join.
    """
    by_key = {job.key: job for job in plan.jobs}
    by_overrides = {tuple(job.overrides): job for job in plan.jobs}
    jobs: dict[str, Job] = {}
    duplicates: list[str] = []
    changed = set(changed)
    found: list[Job] = []
    for point in prepared:
        if (job := by_key.get(point.key)) is not None:
            _heal_config(directory, job, point)
        elif (job := by_overrides.get(tuple(point.overrides))) is not None:
            changed |= differences(directory.config(job), point.config)
        else:
            job = by_key[point.key] = _freeze(directory, plan, point)
        if job.name in jobs:
            duplicates.append(_shown(point.varied) or job.name)
        jobs[job.name] = job
        found.append(job)
    if duplicates:
        print(f"{len(duplicates)} of {len(prepared)} points are there twice and run once: {'; '.join(duplicates)}")
    if changed:
        print(
            f"conf/ gives other settings now than when this sweep was planned ({', '.join(sorted(changed))}). "
            "Its jobs keep theirs, new ones have these; sweep.fresh=true starts anew"
        )
    directory.write(plan)
    return found


def _heal_config(directory: SweepDir, job: Job, point: Prepared) -> None:
    """The key is a hash of the config, so that a damaged one of the same key can be written again."""
    try:
        directory.config(job)
    except ConfigError as error:
        print(f"{error}; written again")
        directory.freeze(job, point.config)


def _freeze(directory: SweepDir, plan: Plan, point: Prepared) -> Job:
    taken = [*(job.run for job in plan.jobs), "configs", "plots"]
    while directory.holds_another(name := readable_name(point.varied, taken), point.key):
        taken.append(name)
    job = Job(point.key, name, point.overrides, name, point.choices)
    directory.add(plan, job, point.config)
    return job


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    old, new = (dict(flatten(deciding(config))) for config in (before, now))
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _shown(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _shown_list(overrides: set[str]) -> str:
    return " ".join(sorted(overrides)) or "nothing beside its axes"
