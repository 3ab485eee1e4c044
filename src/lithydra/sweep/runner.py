"""One command's work on a sweep: what every sweeper plugin does, whatever it searches with and launches through."""

import importlib.util
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lithydra.errors import ConfigError, LithydraError
from lithydra.overrides import bare
from lithydra.run.config import flatten, trainable
from lithydra.run.trust import own_code
from lithydra.sweep.directory import (
    DAMAGED,
    DONE,
    ENDED,
    FAILED,
    NEUTRAL,
    NOT_STARTED,
    Job,
    Plan,
    SweepDir,
    readable_name,
    wait_until_free,
)
from lithydra.sweep.plan import Prepared, Request, prepare
from lithydra.sweep.study import check_rules

log = logging.getLogger(__name__)


class SweepFailed(LithydraError):
    """Some jobs have no result; the message has a line for each."""


class Sweep:
    """Prepares points, adds them to the plan, launches them and says how it ended.

    Usage, by a sweeper: `prepare` (nothing is written before all points are known to be good), then inside `opened()`:
    `add` and `launch`, as often as it likes, and `finish`.
    """

    def __init__(self, config: DictConfig, context: HydraContext, task: TaskFunction, request: Request) -> None:
        self.config, self.loader, self.request = config, context.config_loader, request
        study = config.hydra.runtime.choices.get("study")
        name = config.sweep.name if config.sweep.name is not None else request.default_name(study)
        self.directory = SweepDir(Path(config.paths.sweeps) / str(name))
        self.launched: list[Job] = []
        self._plan: Plan | None = None
        self._pending: list[str] = []
        self._kept: dict[str, dict[str, Any]] = {}  # by job of the old plan: what conf/ and the command line give now
        self._trust = set(config.trust)
        self._point_hydra_here()
        plugins = Plugins.instance()
        self.launcher = plugins.instantiate_launcher(hydra_context=context, task_function=task, config=config)

    @property
    def plan(self) -> Plan:
        assert self._plan is not None, "inside opened() only"
        return self._plan

    def warm_up(self, modules: Sequence[str] = ()) -> None:
        """Tell a launcher that can make use of it that jobs will come, and what they import beside torch."""
        getattr(self.launcher, "warm_up", lambda modules: None)(modules)

    def prepare(self, points: Sequence[Mapping[str, str]]) -> list[Prepared]:
        """Compose, check and resolve points. Raises ConfigError with all that is wrong with them, or with the study."""
        try:
            if self.config.sweep.fresh or not self.directory.exists():
                axes = {bare(key): values for key, values in self.request.axes.items()}
                self._checked_study(axes, str(self.config.monitor.metric))
            return prepare(self.loader, self.config, self.request, points)
        except LithydraError:
            self._close_launcher()
            raise

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Own the sweep's directory and have its plan: that of before where the sweep goes on, or a new one."""
        directory = self.directory
        try:
            if directory.path.exists() and not directory.exists() and _foreign(directory.path):
                raise ConfigError(
                    f"sweep.name={directory.path.name}: {directory.path} holds something else than a sweep"
                )
            with directory.owned():
                if self.config.sweep.fresh and directory.exists():
                    directory.clear()
                self._plan = self._opened_plan()
                self._say_where()
                yield
        finally:
            self._close_launcher()

    def add(self, prepared: Sequence[Prepared]) -> list[Job]:
        """Put points into the plan, their configs frozen, and return their jobs: each once, in the order given.

        A point that the plan has already keeps its job, its frozen config and its results.
        """
        by_key = {job.key: job for job in self.plan.jobs}
        by_overrides = {tuple(job.overrides): job for job in self.plan.jobs}
        jobs: dict[str, Job] = {}
        duplicates: list[str] = []
        changed: set[str] = set()
        for point in prepared:
            job = by_key.get(point.key)
            if job is not None:
                self._heal_config(job, point)
            elif (job := by_overrides.get(tuple(point.overrides))) is not None:
                changed |= _differences(self.directory.config(job), point.config)
            self._trust |= own_code(point.config)
            if job is None:
                job = self._freeze(point)
                by_key[job.key] = job
            else:
                self._kept[job.name] = point.config
            if job.name in jobs:
                duplicates.append(_shown(point.varied) or job.name)
            jobs[job.name] = job
        if duplicates:
            print(f"{len(duplicates)} of {len(prepared)} points are there twice and run once: {'; '.join(duplicates)}")
        if changed:
            print(
                f"conf/ gives other settings now than when this sweep was planned ({', '.join(sorted(changed))}). "
                "Its jobs keep theirs; sweep.fresh=true starts anew"
            )
        self.directory.write(self.plan)
        return list(jobs.values())

    def launch(self, jobs: Sequence[Job], initial_index: int = 0) -> None:
        """Run those of `jobs` that have no result, through the launcher. How each ended is in its run directory."""
        settings = self.config.sweep
        self.launched += [job for job in jobs if job not in self.launched]
        if settings.retry:
            self._reset([job for job in jobs if self.directory.state(job) in FAILED])
        for job in jobs:
            if self.directory.state(job) == DAMAGED:
                self.directory.set_aside(self.directory.run(job).status, self.directory.status(job)["error"])
        pending = [job for job in jobs if self.directory.state(job) not in ENDED]
        done = len(jobs) - len(pending)
        if done:
            print(f"{done} of {len(jobs)} jobs ended before this command")
        for job in pending:
            if (given := self._kept.get(job.name)) is not None:
                trainable(self.directory.config(job), str(self.directory.config_file(job)), given, self.config)
        self._pending += [job.name for job in pending]
        self.plan.invocation = {"jobs": self._pending, "on_error": settings.on_error}
        self.directory.write(self.plan)
        if pending:
            try:
                trust = f"trust=[{','.join(sorted(self._trust))}]"
                overrides = [[f"sweep.job='{job.name}'", trust] for job in pending]
                self.launcher.launch(overrides, initial_job_idx=initial_index)
            except LithydraError:
                raise
            except Exception as error:  # of another launcher, about one job; the run directories know of the others
                print(f"{type(self.launcher).__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            for job in pending:
                self._settle(job)

    def finish(self) -> None:
        """Write the report, print it, and raise SweepFailed where a job has no result."""
        report(self.directory.path)
        problems = [problem for job in self.launched if (problem := self._problem(job))]
        print(self._summary(), flush=True)
        if problems:
            counts = f"{len(problems)} of {len(self.launched)} jobs have no result"
            advice = "sweep.retry=true runs failed ones again, the same command those that did not start"
            raise SweepFailed("\n".join([*problems, f"{counts} (logs: {self.directory.path}/*/train.log); {advice}"]))

    def _summary(self) -> str:
        """How many jobs finished, and the best of them."""
        metric, sign = self.plan.objective["metric"], 1 if self.plan.objective["mode"] == "max" else -1
        finished = [job for job in self.launched if self.directory.state(job) == "finished"]
        scores = [(score, job) for job in finished if (score := self.directory.objective(job, self.plan)) is not None]
        text = f"{len(finished)} of {len(self.launched)} jobs finished"
        if scores:
            score, job = max(scores, key=lambda pair: sign * pair[0])
            text += f"; best {metric} {score:.4f}: {job.name}"
        return text

    def _opened_plan(self) -> Plan:
        request, config = self.request, self.config
        plan = self._read_plan()
        if plan is None:
            objective = {"metric": str(config.monitor.metric), "mode": str(config.monitor.mode)}
            plan = Plan(self.directory.path.name, ["python", *sys.argv], objective, common=request.common)
        given, before = set(request.common), set(plan.common)
        if given != before:
            raise ConfigError(
                f"sweep.name={plan.name}: its jobs have {_shown_list(before - given)}, this command has "
                f"{_shown_list(given - before)}. Take another sweep.name, or sweep.fresh=true"
            )
        for key, values in request.axes.items():
            plan.axes[bare(key)] = list(dict.fromkeys([*plan.axes.get(bare(key), []), *values]))
        # Its rules may have changed since; they are no part of the jobs.
        plan.study = self._checked_study(plan.axes, plan.objective["metric"])
        return plan

    def _read_plan(self) -> Plan | None:
        """None where there is none, or no more: then its jobs are found again by name and config, as they come."""
        if not self.directory.exists():
            return None
        try:
            return self.directory.read()
        except ConfigError as error:
            self.directory.set_aside(self.directory.file, error)
            return None

    def _heal_config(self, job: Job, point: Prepared) -> None:
        """The key is a hash of the config, so that a damaged one of the same key can be written again."""
        try:
            self.directory.config(job)
        except ConfigError as error:
            print(f"{error}; written again")
            self.directory.freeze(job, point.config)

    def _checked_study(self, axes: Mapping[str, list[str]], metric: str) -> dict[str, Any] | None:
        if self.config.get("study") is None:
            return None
        study: Any = OmegaConf.to_container(self.config.study, resolve=True)
        check_rules(study, axes, metric)
        return study

    def _freeze(self, point: Prepared) -> Job:
        taken = [*(job.run for job in self.plan.jobs), "configs", "plots"]
        while self.directory.holds_another(name := readable_name(point.varied, taken), point.key):
            taken.append(name)
        job = Job(point.key, name, point.overrides, name, point.choices)
        self.directory.add(self.plan, job, point.config)
        return job

    def _say_where(self) -> None:
        verb = "Going on with" if self.plan.jobs else "New"
        print(f"{verb} sweep {self.directory.path}", flush=True)

    def _reset(self, jobs: Sequence[Job]) -> None:
        """Failed jobs go on from their last checkpoint; diverged ones start anew, as it would lead there again."""
        for job in jobs:
            run = self.directory.run(job)
            if self.directory.state(job) == "diverged":
                shutil.rmtree(run.path)
            else:
                run.update_status(state="interrupted")

    def _point_hydra_here(self) -> None:
        """Launchers name their directories after Hydra's config; their workers compose it anew from its overrides."""
        place = self.directory.path.absolute()
        with open_dict(self.config):
            self.config.hydra.sweep.dir = str(place)
            overrides = self.config.hydra.overrides.hydra
            kept = [text for text in overrides if not text.startswith("hydra.sweep.dir=")]
            self.config.hydra.overrides.hydra = [*kept, f"hydra.sweep.dir='{place}'"]

    def _settle(self, job: Job) -> None:
        """A job whose process is gone while its status says that it runs was killed."""
        run = self.directory.run(job)
        if (
            self.directory.state(job) == "running"
            and wait_until_free(run, 1)
            and self.directory.state(job) == "running"
        ):
            run.update_status(state="failed", error="its process ended without a word (killed from outside?)")

    def _problem(self, job: Job) -> str | None:
        status = self.directory.status(job)
        state = status.get("state", NOT_STARTED)
        if state in DONE:
            return None
        reason = status.get("error") if state in FAILED else None
        return f"{job.name}: {state}" + (f": {reason}" if reason else "")

    def _close_launcher(self) -> None:
        getattr(self.launcher, "close", lambda: None)()


def launched(config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> tuple[SweepDir, list[Job]]:
    """The jobs that a launcher was given, as `Sweep.launch` writes them."""
    parser = OverridesParser.create()
    names: list[str] = []
    for overrides in job_overrides:
        values = {o.key_or_group: o.value() for o in parser.parse_overrides(list(overrides))}
        if "sweep.job" not in values:
            raise ConfigError("hydra/launcher=local: works with hydra/sweeper=grid and hydra/sweeper=optuna")
        names.append(str(values["sweep.job"]))
    sweep = SweepDir(Path(str(config.hydra.sweep.dir)))
    jobs = {job.name: job for job in sweep.read().jobs}
    return sweep, [jobs[name] for name in names]


def job_returns(sweep: SweepDir, jobs: Sequence[Job]) -> list[JobReturn]:
    """What Hydra expects of a launcher: each job's objective."""
    plan = sweep.read()
    returns: list[JobReturn] = []
    for job in jobs:
        returned = JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)
        returned.return_value = sweep.objective(job, plan) if sweep.state(job) == "finished" else None
        returns.append(returned)
    return returns


def report(directory: Path) -> None:
    """The sweep's tables and plots, where the module for them is there."""
    if importlib.util.find_spec("lithydra.report.page") is not None:
        importlib.import_module("lithydra.report.page").report_sweep(directory)


def _foreign(path: Path) -> bool:
    """Whether a directory without a sweep.json is no sweep's: not one that has lost it."""
    has_configs = any(path.glob(f"configs/{'[0-9a-f]' * 16}.yaml"))
    return not has_configs and any(not child.name.startswith(".") for child in path.iterdir())


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    old, new = (dict(flatten({k: v for k, v in c.items() if k not in NEUTRAL})) for c in (before, now))
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _shown(settings: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def _shown_list(overrides: set[str]) -> str:
    return " ".join(sorted(overrides)) or "nothing beside its axes"
