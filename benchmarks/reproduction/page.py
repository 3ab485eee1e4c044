"""docs/results.md, from run and sweep directories; what is not here stands as the page had it."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from lithydra.files import write_text
from lithydra.report.input import ReportData
from lithydra.report.page import write_report
from lithydra.report.verdicts import Outcome, judge, overall
from lithydra.run.directory import RunDir
from lithydra.run.rendering import duration
from lithydra.sweeps.results import Spread
from lithydra.sweeps.study import rules_of
from reproduction.plan import Item, Recipe, Study
from reproduction.recipes_plot import plot_recipes

DASH = "-"
TIMES = (
    "What was measured more than once stands with its last figures. "
    "A time is a run's median epoch times its epochs, so that pauses do not count; other work beside it does. "
    "Of a recipe's seeds the fastest is given, of a study's runs the median."
)
RECIPE_COLUMNS = (
    "command",
    "source reports",
    "ours (test accuracy)",
    "our other figures",
    "time",
    "hardware",
    "verdict",
)
ACCURACY = "test/acc"
RECORD_COLUMNS = ("command", "test accuracy", "training", "PFLOP", "hardware", "published")
RECIPES, ON_GPU, RECORDS, STUDIES = "Recipes", "On a GPU", "Records", "Studies"
ORIGIN = " runs, of the commits "
OTHERS = {"test acc": ACCURACY, "test loss": "test/loss", "train acc": "train/acc", "train loss": "train/loss"}


@dataclass(frozen=True)
class Earlier:
    """The page as it was."""

    origins: list[str]  # the lines that say which commits the runs are of
    rows: dict[tuple[str, str], str]  # by the table's heading and the command
    sections: dict[str, list[str]]  # of studies, by name

    @classmethod
    def read(cls, path: Path) -> "Earlier":
        lines = path.read_text().splitlines() if path.exists() else []
        rows, heading = dict[tuple[str, str], str](), ""
        for line in lines:
            if line.startswith("## "):
                heading = line.removeprefix("## ")
            elif line.startswith("| `"):
                rows[heading, line.split("`")[1]] = line
        heads = [index for index, line in enumerate(lines) if line.startswith("### ")]
        sections = {lines[start].split("`")[1]: lines[start:end] for start, end in pairwise([*heads, len(lines)])}
        return cls([line for line in lines if ORIGIN in line], rows, sections)

    def measured(self, heading: str, command: str) -> bool:
        return "not measured" not in self.rows.get((heading, command), "not measured")

    def row(self, heading: str, command: str, cells: Sequence[str], here: bool) -> str:
        """A row of a table; where nothing was measured here but then, as it was."""
        kept = not here and self.measured(heading, command)
        return self.rows[heading, command] if kept else _row([f"`{command}`", *cells])


def write(path: Path, items: Sequence[Item], *, quick: bool, command: str, note: str = "") -> None:
    """Write the page and its pictures, these into images/results/ beside it. The note is of the studies."""
    earlier = Earlier.read(path)
    images = path.parent / "images" / "results"
    images.mkdir(parents=True, exist_ok=True)
    recipes = [item for item in items if isinstance(item, Recipe)]
    studies = [item for item in items if isinstance(item, Study)]
    lines = ["# Results", "", f"Written by `{command}` from the run directories; not one number is edited by hand."]
    if quick:
        lines += ["**Of a quick pass: on a tenth of the data and with fewer seeds, so the goals do not apply.**"]
    lines += [*dict.fromkeys([*earlier.origins, *_origin(recipes, studies)]), TIMES]
    on_cpu = [recipe for recipe in recipes if not recipe.needs_gpu]
    lines += ["", f"## {RECIPES}", "", *_recipes(RECIPES, on_cpu, recipes, quick, earlier), "", *_reasons(on_cpu)]
    picture = images / "recipes.png"
    elsewhere = [recipe for recipe in on_cpu if not _finished(recipe) and earlier.measured(RECIPES, _command(recipe))]
    if picture.exists() if elsewhere else plot_recipes(recipes, picture):  # it is of all
        lines += ["![Training accuracy by epoch, and the test accuracy](images/results/recipes.png)", ""]
    if on_gpu := [recipe for recipe in recipes if recipe.needs_gpu]:
        lines += [f"## {ON_GPU}", "", *_recipes(ON_GPU, on_gpu, recipes, quick, earlier), "", *_reasons(on_gpu)]
    if records := [recipe for recipe in recipes if "published" in recipe.entry]:
        lines += [f"## {RECORDS}", "", *_records(records, earlier), ""]
    judged = {study.name: _judge(study) for study in studies}
    lines += [f"## {STUDIES}", "", *([note, ""] if note else []), *_studies(studies, judged, earlier), ""]
    for study in studies:
        one = judged[study.name]
        lines += _details(one, images) if one else earlier.sections.get(study.name, [])
    write_text(path, "\n".join(lines).rstrip() + "\n")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(header: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [_row(header), _row(["---"] * len(header)), *rows]


def _recipes(
    heading: str, recipes: Sequence[Recipe], others: Sequence[Recipe], quick: bool, earlier: Earlier
) -> list[str]:
    by_name = {recipe.name: recipe for recipe in others}
    rows = []
    for recipe in recipes:
        runs = _finished(recipe)
        score = judged_by(recipe)
        shown = str(score) if score else recipe.entry.get("not_run", "not measured")
        name = "" if recipe.metric == ACCURACY else f"{recipe.metric} "
        seconds = [_seconds([float(row["seconds"]) for row in run.read_metrics()]) for run in runs]
        cells = [
            str(recipe.entry["reports"]),
            f"{name}{shown} (seed{'s' if len(runs) > 1 else ''} {_seeds(recipe)})" if score else shown,
            _others(recipe),
            duration(min(seconds)) if seconds else DASH,
            hardware(runs[0]) if runs else DASH,
            "not judged" if quick and score else _verdict(recipe, score, by_name),
        ]
        rows.append(earlier.row(heading, _command(recipe), cells, here=bool(runs)))
    return _table(RECIPE_COLUMNS, rows)


def _records(recipes: Sequence[Recipe], earlier: Earlier) -> list[str]:
    """Time and work to a result, beside what others have published."""
    rows = []
    for recipe in recipes:
        runs, score = _finished(recipe), judged_by(recipe)
        seconds = [float(run.read_metrics()[-1].get("training_seconds") or math.nan) for run in runs]
        cells = [
            f"{score} (seed{'s' if len(runs) > 1 else ''} {_seeds(recipe)})" if score else "not measured",
            duration(min(seconds)) if seconds else DASH,  # other work beside a run is not its time
            f"{median(map(_petaflops, runs)):.2g}" if runs else DASH,
            hardware(runs[0]) if runs else DASH,
            recipe.entry["published"],
        ]
        rows.append(earlier.row(RECORDS, _command(recipe), cells, here=bool(runs)))
    return _table(RECORD_COLUMNS, rows)


def _petaflops(run: RunDir) -> float:
    """Operations of all batches that were trained on, of matrix products and convolutions."""
    batches = run.read_status()["step"] * run.read_config()["trainer"]["accumulate_grad_batches"]
    return batches * (run.origin()["trainer"]["step_flops"] or math.nan) / 1e15


def _others(recipe: Recipe) -> str:
    found = {name: _metric(recipe, key) for name, key in OTHERS.items() if key != recipe.metric}
    return ", ".join(f"{name} {spread}" for name, spread in found.items() if spread) or DASH


def _seconds(epochs: Sequence[float]) -> float:
    return median(epochs) * len(epochs)


def _reasons(recipes: Sequence[Recipe]) -> list[str]:
    lines = [f"- `{recipe.name}`: {recipe.entry['note']}" for recipe in recipes if "note" in recipe.entry]
    return [*lines, ""] if lines else []


def _command(recipe: Recipe) -> str:
    return " ".join(["python train.py", f"experiment={recipe.experiment}", *recipe.overrides])


def _finished(recipe: Recipe) -> list[RunDir]:
    return [recipe.run(seed) for seed in recipe.seeds if recipe.finished(seed)]


def _seeds(recipe: Recipe) -> str:
    return ", ".join(str(seed) for seed in recipe.seeds if recipe.finished(seed))


def judged_by(recipe: Recipe) -> Spread | None:
    return _metric(recipe, recipe.metric)


def _metric(recipe: Recipe, key: str) -> Spread | None:
    return Spread.of([run.read_status()["metrics"].get(key, math.nan) for run in _finished(recipe)])


def _verdict(recipe: Recipe, score: Spread | None, others: dict[str, Recipe]) -> str:
    if score is None:
        return DASH
    other = others.get(recipe.entry.get("above", ""))
    reference = judged_by(other) if other else None
    if other and reference:
        better = score.mean > reference.mean
        return f"{'above' if better else 'NOT above'} {other.name} ({reference})"
    if "at_least" not in recipe.entry:
        return "trains"
    reached = score.mean >= recipe.entry["at_least"]
    return f"{'reached' if reached else 'NOT reached'}: at least {recipe.entry['at_least']}"


def hardware(run: RunDir) -> str:
    """What provenance.json says of the machine."""
    if not run.provenance.exists():
        return DASH
    machine: dict[str, Any] = json.loads(run.provenance.read_text())["hardware"]
    gpus = f", {', '.join(map(str, machine['gpus']))}" if machine["gpus"] else ""
    return f"{machine['cpu']}, {machine['torch_threads']} of {machine['cores']} cores{gpus}"


def _origin(recipes: Sequence[Recipe], studies: Sequence[Study]) -> list[str]:
    """Which commits and packages the runs are of, if there are any."""
    runs = [run for recipe in recipes for run in _finished(recipe)]
    for study in studies:
        runs += [study.sweep.run(job) for job in study.ended]
    found = [json.loads(run.provenance.read_text()) for run in runs if run.provenance.exists()]
    commits = sorted({(one.get("git") or {}).get("commit") or "unknown" for one in found})
    packages = [
        f"{name} {', '.join(versions)}"
        for name in ("torch", "lightning")
        if (versions := sorted({one["packages"][name] for one in found if name in one.get("packages", {})}))
    ]
    if not found:
        return []
    return [f"{len(found)}{ORIGIN}{', '.join(commit[:7] for commit in commits)}; {', '.join(packages)}."]


@dataclass(frozen=True)
class Judged:
    """A study's sweep as its report shows it, renewed."""

    study: Study
    sweep: ReportData
    outcomes: list[Outcome]


def _judge(study: Study) -> Judged | None:
    if not study.ended:
        return None
    sweep = write_report(study.sweep.path)
    return Judged(study, sweep, judge(sweep.plan, sweep.frame, sweep.epochs))


def _studies(studies: Sequence[Study], judged: Mapping[str, Judged | None], earlier: Earlier) -> list[str]:
    rows = []
    for study in studies:
        verdict, runs, seconds, machine = "not measured", DASH, DASH, DASH
        if one := judged[study.name]:
            frame = one.sweep.frame
            verdict = overall(one.outcomes)
            runs = f"{int((frame['state'] == 'finished').sum())} of {len(frame)}"
            by_run = one.sweep.epochs.groupby("name")["seconds"]
            seconds = duration(float(by_run.apply(_seconds).median())) if len(by_run) else DASH
            machine = hardware(RunDir(Path(str(frame["run"].iloc[0]))))
        expectation = study.config["study"]["expectation"]
        cells = [expectation, runs, seconds, machine, verdict]
        rows.append(earlier.row(STUDIES, f"python train.py -m study={study.name}", cells, here=one is not None))
    return _table(("command", "expected", "runs", "time a run", "hardware", "verdict"), rows)


def _details(one: Judged, images: Path) -> list[str]:
    study = one.study
    title = study.config["study"]["title"]
    lines = [f"### {title} (`{study.name}`)", "", study.config["study"]["expectation"], ""]
    lines += [f"- **{outcome.verdict}**: {outcome.claim} ({outcome.figures})" for outcome in one.outcomes]
    lines += ["", study.note] * bool(study.note)
    for picture in _pictures(one):
        target = images / f"{study.name.replace('/', '-')}-{picture.name}"
        shutil.copyfile(picture, target)
        lines += ["", f"![{title}](images/results/{target.name})"]
    return [*lines, ""]


def _pictures(one: Judged) -> list[Path]:
    """Of the report's plots, those that show what the rules compare."""
    names = []
    for rule in rules_of(one.sweep.plan.study):
        metric = rule["metric"]
        if metric == "gap" and "at_epoch" not in rule:  # the picture is of the best epoch
            names.append("gap.png")
        elif metric.startswith("layers/"):
            names += ["layers.png", "histograms.png"]
        elif one.sweep.is_search:
            names.append("history.png")
        else:
            names.append(f"{'effect' if metric.startswith('test/') else 'curves'}_{one.sweep.axes[0]}.png")
    plots = one.sweep.directory.path / "plots"
    return [plots / name for name in dict.fromkeys(names) if (plots / name).exists()]
