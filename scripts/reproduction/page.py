"""docs/results.md, from run and sweep directories alone."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lithydra.run_dir import RunDir
from lithydra.sweep_results import Spread, curves, duration, results
from lithydra.verdicts import judge, overall
from reproduction.layers_plot import plot_layers
from reproduction.plan import Item, Recipe, Study
from reproduction.recipes_plot import plot_recipes

DASH = "-"
# Which of a report's pictures shows a study's point, where it has several; the first that there is.
PICTURES = ("histograms.png", "layers.png", "curves_*.png", "effect_*.png", "*.png")


def write(path: Path, items: Sequence[Item], *, quick: bool, command: str) -> None:
    """Write the page and its pictures, these into images/results/ beside it."""
    images = path.parent / "images" / "results"
    images.mkdir(parents=True, exist_ok=True)
    recipes = [item for item in items if isinstance(item, Recipe)]
    studies = [item for item in items if isinstance(item, Study)]
    lines = ["# Results", "", f"Written by `{command}` from the run directories; not one number is edited by hand."]
    if quick:
        lines += ["**Of a quick pass: on a tenth of the data and with fewer seeds, so the goals do not apply.**"]
    lines += ["", "## Recipes", "", *_recipes(recipes, quick)]
    if plot_recipes(recipes, images / "recipes.png"):
        lines += ["", "![Training accuracy by epoch, and the test accuracy](images/results/recipes.png)"]
    lines += ["", "## Studies", "", *_studies(studies)]
    for study in studies:
        lines += _details(study, images)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in body]


def _recipes(recipes: Sequence[Recipe], quick: bool) -> list[str]:
    by_name = {recipe.name: recipe for recipe in recipes}
    rows = []
    for recipe in recipes:
        runs = _finished(recipe)
        score = accuracy(recipe)
        shown = str(score) if score else recipe.entry.get("not_run", "not run yet")
        seconds = Spread.of([run.training_seconds() or 0.0 for run in runs])
        rows.append(
            [
                f"`{_command(recipe)}`",
                str(recipe.entry["reports"]),
                f"{shown} (seed{'s' if len(runs) > 1 else ''} {_seeds(recipe)})" if score else shown,
                duration(seconds.mean) if seconds else DASH,
                hardware(runs[0]) if runs else DASH,
                "not judged" if quick and score else _verdict(recipe, score, by_name),
            ]
        )
    return _table(("command", "source reports", "ours (test accuracy)", "time a run", "hardware", "verdict"), rows)


def _command(recipe: Recipe) -> str:
    return " ".join(["python train.py", f"experiment={recipe.experiment}", *recipe.overrides])


def _finished(recipe: Recipe) -> list[RunDir]:
    return [recipe.run(seed) for seed in recipe.seeds if recipe.finished(seed)]


def _seeds(recipe: Recipe) -> str:
    return ", ".join(str(seed) for seed in recipe.seeds if recipe.finished(seed))


def accuracy(recipe: Recipe) -> Spread | None:
    return Spread.of([run.read_status()["metrics"]["test/acc"] for run in _finished(recipe)])


def _verdict(recipe: Recipe, score: Spread | None, others: dict[str, Recipe]) -> str:
    if score is None:
        return DASH
    other = others.get(recipe.entry.get("above", ""))
    reference = accuracy(other) if other else None
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


def _studies(studies: Sequence[Study]) -> list[str]:
    rows = []
    for study in studies:
        verdict, runs, seconds, machine = DASH, DASH, DASH, DASH
        if study.sweep.exists():
            frame: Any = results(study.sweep.path)
            done = int((frame["state"] == "finished").sum())
            verdict = overall(_outcomes(study))
            runs = f"{done} of {len(frame)}"
            seconds = duration(float(frame["seconds"].mean()))
            machine = hardware(RunDir(Path(frame["run"].iloc[0])))
        expectation = study.config["study"]["expectation"]
        rows.append([f"`python train.py -m study={study.name}`", expectation, runs, seconds, machine, verdict])
    return _table(("command", "expected", "runs", "time a run", "hardware", "verdict"), rows)


def _outcomes(study: Study) -> list[Any]:
    plan = study.sweep.read()
    frame = results(study.sweep.path)
    return judge(plan.study or {}, frame, curves(frame, plan.axes), list(plan.axes), plan.objective)


def _details(study: Study, images: Path) -> list[str]:
    if not study.sweep.exists():
        return []
    lines = ["", f"### {study.config['study']['title']} (`{study.name}`)", "", study.config["study"]["expectation"], ""]
    lines += [f"- **{outcome.verdict}**: {outcome.claim} ({outcome.figures})" for outcome in _outcomes(study)]
    plots = study.sweep.path / "plots"
    plot_layers(study.sweep, plots / "layers.png")
    source = next((path for pattern in PICTURES for path in sorted(plots.glob(pattern))), None)
    if source is not None:
        target = images / f"{study.name.replace('/', '-')}.png"
        shutil.copyfile(source, target)
        lines += ["", f"![{study.config['study']['title']}](images/results/{target.name})"]
    return lines
