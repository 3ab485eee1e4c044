"""A search: asks Optuna for trials, has the launcher run them as jobs of a sweep, and tells Optuna their values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from lithydra.errors import ConfigError, LithydraError
from lithydra.overrides import bare
from lithydra.search import optuna_side
from lithydra.search.best import write_best
from lithydra.search.settings import Settings
from lithydra.search.space import corners, grid, override_value, parse
from lithydra.sweeps.directory import ENDED, Job
from lithydra.sweeps.enqueue import opened_plan
from lithydra.sweeps.launcher import make_slots
from lithydra.sweeps.plan import Prepared, Request
from lithydra.sweeps.runner import SweepRunner

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class Search:
    """One search in one sweep directory.

    A trial's values are read from its run directory, not from what the launcher returns: so a trial that ended after
    the search was killed still counts, and an interrupted one resumes as the same trial from its last checkpoint.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
        arguments: Sequence[str],
    ) -> None:
        self.settings, self.loader, self.config = Settings.checked(given, config), context.config_loader, config
        self.space, fixed = parse(arguments, self.settings.params, self.loader)
        points = grid(self.space) if self.settings.sampler == "grid" else []
        self.n_trials = self.settings.n_trials or len(points)
        self.points = points[: self.n_trials]
        request = Request.parse(self.loader, {}, fixed)
        self._name(request, arguments)
        self.sweep = SweepRunner(config, context, task, replace(request, axes={key: [] for key in self.space}))
        self.storage = optuna_side.storage_address(self.settings.storage, str(self.sweep.directory.path))

    def _name(self, request: Request, arguments: Sequence[str]) -> None:
        """The same for the same ranges, as a grid's name is; how they are searched and how long does not matter."""
        if self.config.sweep.name is not None:
            return
        given = dict(text.split("=", 1) for text in arguments if "=" in text)
        ranges = {key: [given[key]] for key in self.space if key in given}
        request = replace(request, axes=ranges, typed=frozenset(ranges))
        study = self.config.hydra.runtime.choices.get("study")
        with open_dict(self.config):
            self.config.sweep.name = f"search_{request.default_name(study)}"

    def run(self) -> None:
        """Run trials until there are `n_trials`; write best.yaml and the report. If it runs already, raise its number.

        Raises:
            ConfigError: The space cannot be composed, or the directory holds another search.
            LithydraError: Not one trial finished.
        """
        optuna_side.sampler(self.settings, 0)  # both refuse options that Optuna does not know
        optuna_side.pruner(self.settings.pruner, 1, self.settings.pruner_options)
        if self._raise_running():
            return
        self.sweep.warm_up(() if self.settings.pruner == "none" else optuna_side.IMPORTED)
        self.sweep.prepare([self._texts(point) for point in corners(self.space)])
        with self.sweep.opened():
            if self.config.sweep.fresh:
                optuna_side.forget(self.sweep.directory.path)
            study = self._study()
            self._aim(study)
            self._run_batches(study)
            self._end(study)

    def _study(self) -> "Study":
        study = optuna_side.import_optuna().create_study(
            storage=optuna_side.open_storage(self.storage),
            study_name=optuna_side.STUDY,
            directions=self.settings.directions,
            load_if_exists=True,
        )
        self._refuse_other_search(study)
        return study

    def _aim(self, study: "Study") -> None:
        """Write down how many trials there shall be, and of a grid, which."""
        for point in self.points:
            study.enqueue_trial(point, skip_if_exists=True)
        study.set_user_attr(optuna_side.N_TRIALS, self.n_trials)

    def _raise_running(self) -> bool:
        """Whether another process runs this search, for fewer trials; then it goes on to as many as are asked for here.

        It looks after each batch. One that has its last trial behind it does not look again, and is not disturbed.
        """
        directory = self.sweep.directory
        stored = directory.exists() and optuna_side.storage_file(self.storage).exists()
        if self.config.sweep.fresh or not stored or not directory.in_use():
            return False
        opened_plan(directory, self.sweep.request, self.config.monitor)  # refuses jobs of other settings
        study = self._study()
        before = study.user_attrs.get(optuna_side.N_TRIALS, 0)
        if self.n_trials <= before or sum(trial.state.is_finished() for trial in study.get_trials()) >= before:
            return False
        self._aim(study)
        print(f"{directory.path}: the search that runs there goes on to {self.n_trials} trials instead of {before}")
        return True

    def _run_batches(self, study: "Study") -> None:
        """As many trials at a time as the launcher has slots; first those that an earlier command left running."""
        at_once = len(make_slots(self.config, self.n_trials))
        if not self.sweep.plan.jobs:  # of trials whose sweep.json is lost
            self.sweep.add([self._prepared(trial) for trial in study.get_trials() if trial.state.is_finished()])
        broken = [self._asked(study, trial) for trial in study.get_trials() if trial.state.name == "RUNNING"]
        while True:
            self.n_trials = study.user_attrs[optuna_side.N_TRIALS]
            trials, broken = broken, []
            begun = len([t for t in study.get_trials(deepcopy=False) if t.state.name != "WAITING"])
            while len(trials) < at_once and begun < self.n_trials:
                trials.append(self._ask(study, begun))
                begun += 1
            if not trials:
                return
            self._run_trials(study, trials)

    def _ask(self, study: "Study", count: int) -> "FrozenTrial":
        study.sampler = optuna_side.sampler(self.settings, count)
        trial = study.ask({key: parameter.distribution() for key, parameter in self.space.items()})
        return study.get_trials()[trial.number]

    def _asked(self, study: "Study", trial: "FrozenTrial") -> "FrozenTrial":
        study.sampler = optuna_side.sampler(self.settings, trial.number)
        return optuna_side.with_all_parameters(study, trial, {k: p.distribution() for k, p in self.space.items()})

    def _run_trials(self, study: "Study", trials: "list[FrozenTrial]") -> None:
        """Run the trials that have not ended, and tell Optuna the values of all."""
        directory = self.sweep.directory
        jobs: list[Job] = []
        for trial in trials:  # two trials may be the same point, and then have one job
            jobs += self.sweep.add([self._prepared(trial)])
        waiting = list({job.name: job for job in jobs if directory.state(job) not in ENDED}.values())
        if waiting:
            self.sweep.launch(waiting, initial_index=trials[0].number)
        for trial, job in zip(trials, jobs, strict=True):
            self._tell(study, trial, job)
        best = write_best(directory, self.sweep.plan, study, self.loader, self.config)
        ended = len([t for t in study.get_trials(deepcopy=False) if t.state.is_finished()])
        print(f"{ended} of {self.n_trials} trials" + (f"; best so far: {best[0]}" if best else ""), flush=True)

    def _prepared(self, trial: "FrozenTrial") -> Prepared:
        """The trial as a point of the sweep, its values short in its name and whole in its config."""
        texts = self._texts(trial.params)
        prepared = self.sweep.prepare([texts])[0]
        for key, text in texts.items():
            values = self.sweep.plan.axes[bare(key)]
            values += [text] if text not in values else []
        short = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in trial.params.items()}
        return replace(prepared, varied=short, config=self._reporting(prepared.config, trial.number))

    def _reporting(self, config: dict[str, Any], number: int) -> dict[str, Any]:
        """`config` with the callback that reports to the trial; the job stays the same job."""
        if self.settings.pruner == "none":
            return config
        callback = {
            "_target_": "lithydra.search.report_to_trial.ReportToTrial",
            "storage": optuna_side.storage_address(self.settings.storage, "${run}/.."),
            "number": number,
            "metric": self.settings.objectives[0],
            "pruner": self.settings.pruner,
            "max_epochs": config["trainer"]["max_epochs"],
            "pruner_options": self.settings.pruner_options,
        }
        return {**config, "callbacks": {**config["callbacks"], "report_to_trial": callback}}

    def _texts(self, point: Mapping[str, Any]) -> dict[str, str]:
        return {key: override_value(value) for key, value in point.items()}

    def _tell(self, study: "Study", trial: "FrozenTrial", job: Job) -> None:
        """Tell Optuna how a trial ended: complete, with a number for each objective, pruned or failed."""
        from lithydra.sweeps.results import training_seconds  # imports pandas

        directory, states = self.sweep.directory, optuna_side.import_optuna().trial.TrialState
        state = directory.state(job)
        if state not in ENDED:
            raise LithydraError(f"{job.name}: {state}; the same command goes on with the search")
        metrics = directory.status(job).get("metrics", {})
        values = [
            training_seconds(directory.run(job)) if name == "seconds" else metrics.get(name)
            for name in self.settings.objectives
        ]
        if state == "pruned":
            study.tell(trial.number, state=states.PRUNED)
        elif state == "finished" and all(value is not None and math.isfinite(value) for value in values):
            study.tell(trial.number, [value for value in values if value is not None])
        else:
            study.tell(trial.number, state=states.FAIL)

    def _refuse_other_search(self, study: "Study") -> None:
        """A directory belongs to one space and one list of objectives; the number of trials may grow."""
        asked = {"ranges": {k: str(p) for k, p in self.space.items()}, "objectives": self.settings.objectives}
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", asked)
        elif before != asked:
            changed = next(key for key in asked if asked[key] != before.get(key))
            raise ConfigError(
                f"sweep.name={self.sweep.directory.path.name}: holds a search with other {changed}: "
                f"{before.get(changed)}, given {asked[changed]}. Take another sweep.name, or sweep.fresh=true"
            )

    def _end(self, study: "Study") -> None:
        from lithydra.report.page import report_sweep  # imports pandas: at the end, when nothing waits for it

        directory = self.sweep.directory
        best = write_best(directory, self.sweep.plan, study, self.loader, self.config)
        directory.write(self.sweep.plan)
        report_sweep(directory.path)
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        counts = [states.count(name) for name in ("COMPLETE", "PRUNED", "FAIL")]
        print("{} trials finished, {} pruned, {} failed or diverged".format(*counts))
        if best is None:
            raise LithydraError(f"No trial finished; what went wrong is in {directory.path / 'report.html'}")
        print(f"best again     {best[1]}")
