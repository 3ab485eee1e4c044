"""What there is to run: the recipes of sources.yaml and the studies of conf/study."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lithydra.errors import ConfigError, nearest
from lithydra.run.config import flatten, frozen
from lithydra.run.directory import RunDir
from lithydra.sweeps.directory import Job, Plan, SweepDir
from lithydra.sweeps.plan import Request
from lithydra.verbs.compare import differences

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).with_name("sources.yaml")
STUDIES = ROOT / "conf" / "study"
QUICK = ("data.limit=0.1",)
NOT_OURS = ("digits",)  # examples of the README: they reproduce nothing


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it is compared with; see sources.yaml."""

    name: str
    folder: Path
    quick: bool
    entry: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        seeds = self.entry.get("seeds", [0, 1, 2])
        return seeds[:1] if self.quick else seeds

    @property
    def experiment(self) -> str:
        return self.entry.get("experiment", self.name)

    @property
    def overrides(self) -> list[str]:
        return list(self.entry.get("overrides", []))

    @property
    def needs_gpu(self) -> bool:
        return "accelerator=gpu" in self.overrides

    @property
    def metric(self) -> str:
        """What the recipe is judged by, among the metrics of status.json."""
        return self.entry.get("metric", "test/acc")

    @property
    def recipes(self) -> Path:
        return self.folder / "recipes"

    def run(self, seed: int) -> RunDir:
        return RunDir(self.recipes / self.name / f"seed_{seed}")

    def arguments(self, seed: int) -> list[str]:
        """Of train.py: for a new run, or to resume one."""
        run = self.run(seed)
        return [f"resume={run.path}"] if run.config.exists() else self.settings(seed)

    def settings(self, seed: int) -> list[str]:
        """Of train.py, for a new run."""
        run = self.run(seed)
        places = {key: self.recipes / name / "seed_0" for key, name in self.entry.get("from", {}).items()}
        places["run"] = run.path
        overrides = [one for one in self.overrides if one.partition("=")[0] not in places]
        quick = self.entry.get("quick", QUICK) if self.quick else []
        given = [f"{key}={path}" for key, path in places.items()]
        return [f"experiment={self.experiment}", *overrides, *quick, f"seed={seed}", *given]

    def refuse_others(self, seed: int) -> None:
        """A run that is there must be one of today's recipe, as far as the two have the same settings.

        Raises:
            ConfigError: It had a setting that conf/ gives another value.
        """
        run = self.run(seed)
        if not run.config.exists():
            return
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            today = dict(flatten(frozen(compose("train", overrides=self.settings(seed)))))
        then = dict(flatten(run.read_config()))
        common = [key for key in today if key in then and today[key] != "auto"]
        for key, (was, value) in differences([{key: of[key] for key in common} for of in (then, today)]).items():
            raise ConfigError(f"{run.path}: {key} was {was} and is {value} in conf/; move that run away")

    def finished(self, seed: int) -> bool:
        return self.run(seed).read_status().get("state") == "finished"


@dataclass(frozen=True)
class Study:
    """A study, by the name of its file."""

    name: str
    folder: Path
    quick: bool
    note: str = ""

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((STUDIES / f"{self.name}.yaml").read_text())

    @property
    def sweep(self) -> SweepDir:
        return SweepDir(self.folder / "sweeps" / self.name.replace("/", "-"))

    @property
    def arguments(self) -> list[str]:
        """Of train.py; the same again resumes the sweep."""
        where = [f"paths.sweeps={self.folder / 'sweeps'}", f"sweep.name={self.sweep.path.name}"]
        return ["-m", f"study={self.name}", *self.changes, *where]

    @property
    def changes(self) -> list[str]:
        """What a quick pass gives other values than the study."""
        if not self.quick:
            return []
        seeds = ["seed=0,1"] if "seed" in self.config["hydra"]["sweeper"]["params"] else []
        return [*self.config["study"].get("quick", QUICK), *seeds]

    @property
    def finished(self) -> bool:
        """Whether all jobs that the study asks for today have ended, and the report is there."""
        if not (self.sweep.exists() and (self.sweep.path / "report.md").exists()):
            return False
        plan = self.sweep.read()
        return self._is_all_in(plan) and len(self.ended) == len(plan.jobs)

    @property
    def ended(self) -> list[Job]:
        """The jobs that have a result."""
        jobs = self.sweep.read().jobs if self.sweep.exists() else []
        return [job for job in jobs if self.sweep.state(job) in ("finished", "diverged")]

    def _is_all_in(self, plan: Plan) -> bool:
        sweeper = self.config["hydra"]["sweeper"]
        if "n_trials" in sweeper:
            return self.quick or len(plan.jobs) >= sweeper["n_trials"]
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            today = Request.parse(GlobalHydra.instance().config_loader(), sweeper["params"], self.changes)
        return all(set(values) <= set(plan.axes.get(key, [])) for key, values in today.axes.items())


Item = Recipe | Study


def note_of_studies() -> str:
    return yaml.safe_load(SOURCES.read_text())["notes"]["studies"]


def items(folder: Path, quick: bool, only: Sequence[str] = ()) -> list[Item]:
    """All recipes and studies in the order to run them, or those that `only` names.

    Raises:
        ConfigError: There is none of a name.
    """
    sources = yaml.safe_load(SOURCES.read_text())
    entries, notes = sources["recipes"], sources["notes"]
    found: list[Item] = [Recipe(name, folder, quick, entry) for name, entry in entries.items()]
    for path in sorted(STUDIES.glob("*/*.yaml")):
        name = str(path.relative_to(STUDIES).with_suffix(""))
        if not name.startswith(NOT_OURS):
            found.append(Study(name, folder, quick, notes.get(name, "")))
    names = [item.name for item in found]
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name}: no such recipe or study.{nearest(name, names)}")
    return [item for item in found if not only or item.name in only]


def refuse_others(items: Sequence[Item]) -> None:
    """Raises ConfigError where a run that is there is of another recipe than today's."""
    for item in items:
        if isinstance(item, Recipe):
            for seed in item.seeds:
                item.refuse_others(seed)
