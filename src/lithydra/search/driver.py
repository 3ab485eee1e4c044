"""A search: ask Optuna for trials, have the launcher run them, tell Optuna what came out."""

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from lithydra.checks import METRICS, check
from lithydra.errors import ConfigError, LithydraError, nearest
from lithydra.run_dir import RunDir
from lithydra.search import study as optuna_side
from lithydra.search.best import write_best
from lithydra.search.space import corners, grid, override_value, parse
from lithydra.sweep_dir import Job, Plan, SweepDir, config_key, readable_name
from lithydra.sweep_results import MISSING, number, training_seconds

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger("lithydra.search")

DONE = ("finished", "pruned", "failed", "diverged")


class Search:
    """One search in one sweep directory.

    A trial is a job of the sweep, and what it scored is read from its run directory, not from what the launcher
    returns: so a trial that ended while the search was dead still counts.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        context: HydraContext,
        config: DictConfig,
        launcher: Launcher,
        arguments: Sequence[str],
    ) -> None:
        self.settings, self.config, self.launcher = dict(settings), config, launcher
        for key in ("sampler_options", "pruner_options", "params"):
            self.settings[key] = dict(self.settings[key] or {})
        self.config_loader = context.config_loader
        self._refuse_bad_settings()
        self.space, self.common = parse(arguments, self.settings["params"], self.config_loader)
        self.n_trials: int = self.settings["n_trials"] or len(grid(self.space))
        self.directory = SweepDir(Path(config.hydra.sweep.dir))
        self.storage = optuna_side.storage_address(self.settings["storage"], self.directory.path)

    def _refuse_bad_settings(self) -> None:
        settings = self.settings
        for key, choices in (
            ("sampler", optuna_side.SAMPLERS),
            ("pruner", optuna_side.PRUNERS),
            ("storage", optuna_side.STORAGES),
        ):
            optuna_side.refuse_unknown(key, settings[key], choices)
        for key in ("n_trials", "n_jobs"):
            count = settings[key]
            none_is_fine = key == "n_trials" and settings["sampler"] == "grid" and count is None
            if not none_is_fine and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise ConfigError(f"hydra.sweeper.{key}={count}: must be a whole number at least 1")
        self.objectives: list[str] = list(settings["objectives"] or [self.config.monitor.metric])
        allowed = (*METRICS, "seconds")
        for objective in self.objectives:
            if objective not in allowed:
                raise ConfigError(
                    f"hydra.sweeper.objectives={objective}: one of {', '.join(allowed)}.{nearest(objective, allowed)}"
                )
        if len(self.objectives) > 1 and settings["pruner"] != "none":
            raise ConfigError(
                f"hydra.sweeper.pruner={settings['pruner']}: with several objectives nothing can be pruned"
            )

    def run(self) -> None:
        """Go on until there are `n_trials`, write best.yaml and the report.

        Raises:
            ConfigError: The space cannot be composed, or the directory holds another search.
            LithydraError: Not one trial finished.
        """
        for point in corners(self.space):
            self._compose(self._overrides(point))
        optuna = optuna_side.import_optuna()
        with self.directory.owned():
            self.plan = self._open_plan()
            study = optuna.create_study(
                storage=optuna_side.open_storage(self.storage),
                study_name=self.directory.path.name,
                directions=["maximize" if name.endswith("/acc") else "minimize" for name in self.objectives],
                load_if_exists=True,
            )
            self._refuse_other_search(study)
            self._search(study)
            self._end(study)

    def _search(self, study: "Study") -> None:
        if self.settings["sampler"] == "grid":
            for point in grid(self.space)[: self.n_trials]:
                study.enqueue_trial(point, skip_if_exists=True)
        broken = [trial for trial in study.get_trials() if trial.state.name == "RUNNING"]
        for trial in broken:
            log.info("Going on with trial %d", trial.number)
        while True:
            asked = [self._settle(study, trial) for trial in broken]
            numbers = [trial.number for trial, settled in zip(broken, asked, strict=True) if not settled]
            broken = []
            begun = len([t for t in study.get_trials(deepcopy=False) if t.state.name != "WAITING"])
            while len(numbers) < self.settings["n_jobs"] and begun < self.n_trials:
                numbers.append(self._ask(study, begun))
                begun += 1
            if not numbers:
                return
            self._launch(study, numbers)

    def _ask(self, study: "Study", number: int) -> int:
        kind, seed = self.settings["sampler"], self.settings["seed"]
        study.sampler = optuna_side.sampler(kind, seed, number, self.settings["sampler_options"])
        trial = study.ask({key: parameter.distribution() for key, parameter in self.space.items()})
        return trial.number

    def _launch(self, study: "Study", numbers: list[int]) -> None:
        trials = [study.get_trials()[number] for number in numbers]
        jobs = [self._job(trial) for trial in trials]
        self.directory.write(self.plan)
        batch = [self._launched(trial, job) for trial, job in zip(trials, jobs, strict=True)]
        returns = self.launcher.launch(batch, initial_job_idx=numbers[0])
        for trial, job, returned in zip(trials, jobs, returns, strict=True):
            run = self.directory.run(job)
            if self.directory.state(job) == "interrupted":
                raise returned._return_value
            if self.directory.state(job) not in DONE:
                error = getattr(returned, "_return_value", None)
                message = str(error) if isinstance(error, Exception) else "its process ended without a word"
                run.path.mkdir(parents=True, exist_ok=True)
                run.update_status(state="failed", error=message)
            self._settle(study, trial)
        write_best(self.directory, self.plan, study, self._is_group)

    def _settle(self, study: "Study", trial: "FrozenTrial") -> bool:
        """Tell Optuna how a trial ended; False where it has not."""
        job = next((job for job in self.plan.jobs if job.name.split(",")[0] == f"{trial.number:04d}"), None)
        state = self.directory.state(job) if job else "not started"
        if job is None or state not in DONE:
            return False
        states = optuna_side.import_optuna().trial.TrialState
        values = self._values(self.directory.run(job))
        if state == "pruned":
            study.tell(trial.number, state=states.PRUNED)
        elif state == "finished" and all(value is not None and math.isfinite(value) for value in values):
            study.tell(trial.number, values)
        else:
            study.tell(trial.number, state=states.FAIL)
        scores = ", ".join(
            f"{o} {MISSING if v is None else number(v)}" for o, v in zip(self.objectives, values, strict=True)
        )
        log.info(
            "trial %d of %d %s: %s  (%s)", trial.number + 1, self.n_trials, state, scores, job.name.partition(",")[2]
        )
        return True

    def _values(self, run: RunDir) -> list[float | None]:
        metrics = run.read_status().get("metrics", {})
        return [training_seconds(run) if name == "seconds" else metrics.get(name) for name in self.objectives]

    def _job(self, trial: "FrozenTrial") -> Job:
        """The trial as a job of the sweep; a new one is put into the plan."""
        prefix = f"{trial.number:04d}"
        known = next((job for job in self.plan.jobs if job.name.split(",")[0] == prefix), None)
        if known:
            return known
        shown = {k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in trial.params.items()}
        name = f"{prefix},{readable_name(shown)}"
        overrides = self._overrides(trial.params)
        config = self._compose(overrides)
        choices = {key: trial.params[key] for key in self.space if self._is_group(key)}
        job = Job(config_key(config), name, overrides, name, choices)
        self.directory.add(self.plan, job, config)
        for key, value in trial.params.items():
            values = self.plan.axes.setdefault(key, [])
            if override_value(value) not in values:
                values.append(override_value(value))
        return job

    def _overrides(self, point: Mapping[str, Any]) -> list[str]:
        return [*self.common, *(f"{key}={override_value(value)}" for key, value in point.items())]

    def _launched(self, trial: "FrozenTrial", job: Job) -> list[str]:
        """What the launcher gets: the job's overrides, where it runs, and whom it reports to."""
        overrides = [*job.overrides, f"hydra.sweep.subdir='{job.run}'"]
        run = self.directory.run(job)
        if run.config.exists():
            overrides.append(f"resume='{run.path}'")
        if self.settings["pruner"] != "none":
            report = {
                "_target_": "lithydra.callbacks.report_to_trial.ReportToTrial",
                "storage": self.storage,
                "study": self.directory.path.name,
                "number": trial.number,
                "metric": self.objectives[0],
                "pruner": self.settings["pruner"],
                "max_epochs": "${trainer.max_epochs}",
                **{f"pruner_options.{key}": value for key, value in self.settings["pruner_options"].items()},
            }
            overrides += [f"+callbacks.report_to_trial.{key}={_quoted(value)}" for key, value in report.items()]
        return overrides

    def _compose(self, overrides: list[str]) -> dict[str, Any]:
        """The resolved config of a trial, checked."""
        config = self.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            del config["hydra"]
        check(config)
        return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]

    def _is_group(self, key: str) -> bool:
        return bool(self.config_loader.get_group_options(key))

    def _open_plan(self) -> Plan:
        if self.directory.exists():
            return self.directory.read()
        monitor, first = self.config.monitor, self.objectives[0]
        metric = first if "/" in first else monitor.metric
        plan = Plan(
            name=self.directory.path.name,
            command=["python", *sys.argv],
            objective={"metric": metric, "mode": "max" if metric.endswith("/acc") else "min"},
            axes={key: [] for key in self.space},
            common=self.common,
            study=OmegaConf.to_container(self.config.study) if self.config.get("study") else None,  # pyright: ignore
        )
        self.directory.write(plan)
        return plan

    def _refuse_other_search(self, study: "Study") -> None:
        """A directory belongs to one space and one set of objectives; the number of trials may grow."""
        asked = {
            "space": {key: str(p) for key, p in self.space.items()},
            "common": self.common,
            "objectives": self.objectives,
        }
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", asked)
        elif before != asked:
            changed = next(key for key in asked if asked[key] != before.get(key))
            raise ConfigError(
                f"sweep.name={self.directory.path.name}: holds another search: its {changed} was "
                f"{before.get(changed)}, given {asked[changed]}. Give it another sweep.name"
            )

    def _end(self, study: "Study") -> None:
        from lithydra.report import report_sweep

        best = write_best(self.directory, self.plan, study, self._is_group)
        report_sweep(self.directory.path)
        counts = {
            name: len([t for t in study.trials if t.state.name == name]) for name in ("COMPLETE", "PRUNED", "FAIL")
        }
        log.info("%d trials finished, %d pruned, %d failed or diverged", *counts.values())
        if best is None:
            raise LithydraError("No trial finished: see the messages in the report, or the train.log of each run.")
        log.info("best again     python train.py --config-dir %s experiment=best", self.directory.path)


def _quoted(value: object) -> str:
    """A value for an override; Hydra's grammar takes paths in quotes only."""
    return "'" + value.replace("'", "\\'") + "'" if isinstance(value, str) else str(value)
