"""One command's work on a sweep: what every sweeper plugin does, whatever it searches with and launches through."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lithydra.errors import ConfigError, LithydraError, first_line
from lithydra.overrides import bare
from lithydra.run import index
from lithydra.run.config import trainable
from lithydra.run.listing import DAMAGED
from lithydra.run.trust import own_code
from lithydra.sweeps.directory import ENDED, FAILED, Job, Plan, SweepDir
from lithydra.sweeps.enqueue import differences, enqueue, opened_plan, refuse_foreign
from lithydra.sweeps.job import retry, settle
from lithydra.sweeps.plan import Prepared, Request, prepare
from lithydra.sweeps.study import check_rules
from lithydra.sweeps.view import problem, summary


class SweepFailed(LithydraError):
    """Some jobs have no result; the message has a line for each."""


class SweepRunner:
    """Prepares points, adds them to the plan, launches them and says how it ended.

    Usage, by a sweeper: `prepare` (nothing is written before all points are known to be good), then inside `opened()`:
    `add` and `launch`, as often as it likes, and `finish`.
    """

    last: ClassVar[SweepDir | None] = None  # of this process; Hydra gives back nothing of what a sweeper has done

    def __init__(self, config: DictConfig, context: HydraContext, task: TaskFunction, request: Request) -> None:
        self.config, self.loader, self.request = config, context.config_loader, request
        study = config.hydra.runtime.choices.get("study")
        name = config.sweep.name if config.sweep.name is not None else request.default_name(study)
        self.directory = SweepDir(Path(config.paths.sweeps) / str(name))
        SweepRunner.last = self.directory
        self.launched: dict[str, Job] = {}
        self._plan: Plan | None = None
        self._pending: list[str] = []
        self._earlier: list[Job] = []  # of commands before this one, until new points have been compared with them
        self._given: dict[str, dict[str, Any]] = {}  # by job of the old plan: what conf/ and the command line give now
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
        """Own the sweep's directory and have its plan: the existing one where there is one, or a new one."""
        directory = self.directory
        try:
            refuse_foreign(directory)
            with directory.owned():
                if self.config.sweep.fresh and directory.exists():
                    directory.clear()
                self._plan = opened_plan(directory, self.request, self.config.monitor)
                # Its rules may have changed since; they are no part of the jobs.
                self._plan.study = self._checked_study(self.plan.axes, self.plan.objective["metric"])
                self._earlier = list(self.plan.jobs)
                print(f"{'Going on with' if self.plan.jobs else 'New'} sweep {directory.path}", flush=True)
                yield
        finally:
            self._close_launcher()
            index.update(Path(self.config.paths.outputs), [directory.run(job) for job in self.launched.values()])

    def add(self, prepared: Sequence[Prepared]) -> list[Job]:
        """Put points into the plan, their configs frozen, and return their jobs: each once, in the order given.

        A point that the plan has already keeps its job, its frozen config and its results.
        """
        before = {job.name for job in self.plan.jobs}
        jobs = enqueue(self.directory, self.plan, prepared, self._changed_before(prepared))
        for point, job in zip(prepared, jobs, strict=True):
            self._trust |= own_code(point.config)
            if job.name in before:
                self._given[job.name] = point.config
        return list({job.name: job for job in jobs}.values())

    def _changed_before(self, prepared: Sequence[Prepared]) -> set[str]:
        """What conf/ gives otherwise now than to the jobs of earlier commands, where new points join them.

        Of each choice of groups one job is composed again, once in a command.
        """
        keys = {job.key for job in self.plan.jobs}
        if all(point.key in keys for point in prepared):
            return set()
        jobs, self._earlier = self._earlier, []
        changed: set[str] = set()
        for job in {tuple(sorted(job.choices.items())): job for job in jobs}.values():
            given = [text.partition("=") for text in job.overrides if text not in self.request.common]
            try:
                (now,) = prepare(self.loader, self.config, self.request, [{key: value for key, _, value in given}])
                changed |= differences(self.directory.config(job), now.config)
            except ConfigError as error:  # it cannot be composed any more, or its frozen config is damaged
                changed.add(f"{job.name}: {first_line(error)}")
        return changed

    def launch(self, jobs: Sequence[Job], initial_index: int = 0) -> None:
        """Run those of `jobs` that have no result, through the launcher. How each ended is in its run directory."""
        self.launched |= {job.name: job for job in jobs}
        pending = self._pending_of(jobs)
        if len(pending) < len(jobs):
            print(f"{len(jobs) - len(pending)} of {len(jobs)} jobs ended before this command")
        self._pending += [job.name for job in pending]
        self.plan.invocation = {"jobs": self._pending, "on_error": self.config.sweep.on_error}
        self.directory.write(self.plan)
        if not pending:
            return
        trust = f"trust=[{','.join(sorted(self._trust))}]"
        overrides = [[f"sweep.job='{job.name}'", trust] for job in pending]
        try:
            self.launcher.launch(overrides, initial_job_idx=initial_index)
        except LithydraError:
            raise
        except Exception as error:  # of another launcher, about one job; the run directories know of the others
            print(f"{type(self.launcher).__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        for job in pending:
            settle(self.directory, job)

    def _pending_of(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that are to be run, made ready for it."""
        directory = self.directory
        for job in jobs:
            if (state := directory.state(job)) == DAMAGED:
                directory.set_aside(directory.run(job).status, directory.status(job)["error"])
            elif state in FAILED and self.config.sweep.retry:
                retry(directory, job)
        pending = [job for job in jobs if directory.state(job) not in ENDED]
        for job in pending:
            if (given := self._given.get(job.name)) is not None:
                trainable(directory.config(job), str(directory.config_file(job)), given, self.config)
        return pending

    def finish(self) -> None:
        """Print the summary, and raise SweepFailed where a job has no result."""
        jobs = list(self.launched.values())
        print(summary(self.directory, self.plan, jobs), flush=True)
        if problems := [text for job in jobs if (text := problem(self.directory, job))]:
            counts = f"{len(problems)} of {len(jobs)} jobs have no result"
            advice = "sweep.retry=true runs failed ones again, the same command those that did not start"
            raise SweepFailed("\n".join([*problems, f"{counts} (logs: {self.directory.path}/*/train.log); {advice}"]))

    def _checked_study(self, axes: Mapping[str, list[str]], metric: str) -> dict[str, Any] | None:
        if self.config.get("study") is None:
            return None
        study: Any = OmegaConf.to_container(self.config.study, resolve=True)
        check_rules(study, axes, metric)
        return study

    def _point_hydra_here(self) -> None:
        """Launchers name their directories after Hydra's config; their workers compose it anew from its overrides."""
        place = self.directory.path.absolute()
        with read_write(self.config.hydra), open_dict(self.config.hydra):
            self.config.hydra.sweep.dir = str(place)
            overrides = self.config.hydra.overrides.hydra
            kept = [text for text in overrides if not text.startswith("hydra.sweep.dir=")]
            self.config.hydra.overrides.hydra = [*kept, f"hydra.sweep.dir='{place}'"]

    def _close_launcher(self) -> None:
        getattr(self.launcher, "close", lambda: None)()
