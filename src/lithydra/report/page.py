"""A sweep's report: a table in the terminal, results.csv, report.html, and report.md with its plots."""

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table as RichTable

from lithydra.files import refuse_links_out, write_text
from lithydra.overrides import FOLDED, bare, typed
from lithydra.report import effects, figures
from lithydra.report.input import ReportData
from lithydra.report.pictures import sections
from lithydra.report.tables import Table, jobs_table, settings_table
from lithydra.report.verdicts import overall
from lithydra.run.directory import RunDir
from lithydra.run.metric_names import parts
from lithydra.run.rendering import duration, render
from lithydra.sweeps.directory import Plan
from lithydra.sweeps.results import BAD_STATES, Setting, readable

TEMPLATES = Path(__file__).parent / "templates"


def report(config: DictConfig) -> dict[str, Any]:
    """`python scripts/report.py sweep=DIR`; returns the settings with their metrics, best first, and the verdicts."""
    sweep = report_sweep(Path(config.sweep), config.until)
    settings = [
        {
            "setting": setting.values,
            "states": setting.states,
            "metrics": {name: {"mean": spread.mean, "std": spread.std} for name, spread in setting.metrics.items()},
        }
        for setting in sweep.settings
    ]
    page = sweep.directory.path / "report.html"
    return {
        "sweep": sweep.directory.path,
        "metric": sweep.metric,
        "settings": settings,
        "outcomes": [asdict(outcome) for outcome in sweep.outcomes],
        "page": page,
    }


def report_sweep(path: Path, until: str | None = None) -> ReportData:
    """Write the report of the sweep in `path`, as far as its jobs have come, and print its best.

    Args:
        path: The sweep's directory.
        until: As in `ReportData`.

    Raises:
        ConfigError: There is no sweep in `path`, or `until` cannot be read.
    """
    sweep = write_report(path, until)
    print_best(sweep)
    return sweep


def write_report(path: Path, until: str | None = None) -> ReportData:
    """The same without a word in the terminal."""
    sweep = ReportData(path, until)
    refuse_links_out(path)
    write_text(path / "results.csv", sweep.frame.to_csv(index=False))
    content = _content(sweep)
    write_text(path / "report.html", render(TEMPLATES / "report.html.j2", content))
    write_text(path / "report.md", render(TEMPLATES / "report.md.j2", content))
    return sweep


def _content(sweep: ReportData) -> dict[str, Any]:
    plan, study = sweep.plan, sweep.plan.study or {}
    bad = sweep.frame[sweep.frame["state"].isin([*BAD_STATES, "interrupted"])]
    return {
        "title": study.get("title") or f"Sweep {plan.name}",
        "expectation": study.get("expectation"),
        "name": plan.name,
        "path": str(sweep.directory.path),
        "created": plan.created.replace("T", " ")[:16],
        "command": shlex.join(plan.command),
        "states": {str(k): int(v) for k, v in sweep.frame["state"].value_counts().items()},
        "time": duration(float(sweep.frame["seconds"].sum())),
        "outcomes": sweep.outcomes,
        "verdict": overall(sweep.outcomes) if sweep.outcomes else None,
        "objective": f"{figures.words(sweep.metric)} ({'highest' if sweep.mode == 'max' else 'lowest'})",
        "tested": "test/acc" in sweep.frame,
        "best": _best(sweep),
        "axes": _axes(plan),
        "common": shlex.join(plan.common),
        "folded": " and ".join(_folded_words(plan, axis) for axis in sweep.folded),
        "settings_table": settings_table(sweep.settings, sweep.axes, sweep.metric),
        "jobs_table": jobs_table(sweep.frame, list(plan.axes), sweep.metric, sweep.mode),
        "groups": sections(sweep),
        "failures": bad[["name", "state", "error"]].fillna("no message").to_dict("records"),
        "commands": commands(sweep),
        "tensorboard": any(sweep.directory.run(job).tensorboard.is_dir() for job in plan.jobs),
    }


def _folded_words(plan: Plan, axis: str) -> str:
    return f"{len(plan.axes[axis])} {'seeds' if axis == 'seed' else 'folds'}"


def _axes(plan: Plan) -> list[dict[str, str]]:
    """The varied keys with their values; of a long scale, its ends."""
    rows = []
    for axis, values in plan.axes.items():
        shown = ", ".join(values)
        if len(values) > effects.MAX_TICKS and figures.is_numeric(numbers := [typed(value) for value in values]):
            shown = f"{min(numbers):.4g} to {max(numbers):.4g}"
        note = "folded into mean ± std" if axis in FOLDED and len(values) > 1 else f"{len(values)} values"
        rows.append({"name": axis, "shown": shown, "note": note})
    return rows


def _best(sweep: ReportData) -> dict[str, Any] | None:
    best = sweep.settings[0] if sweep.settings else None
    if best is None or sweep.metric not in best.metrics:
        return None
    shown = [name for name in dict.fromkeys((sweep.metric, "val/acc", "test/acc", "test/loss")) if name in best.metrics]
    tiles = [
        {
            "text": str(best.metrics[name]),
            "label": figures.words(name) + (", not used to choose" if name.startswith("test") else ""),
        }
        for name in shown
    ]
    if half_width := best.metrics[sweep.metric].half_width:
        tiles[0]["label"] += f"; 95 % interval ± {half_width:.4f}"
    counts = readable(sweep.directory.path, lambda: _images(best), {})
    for tile, name in zip(tiles, shown, strict=True):
        split, metric = parts(name)
        mean = best.metrics[name].mean
        if metric == "acc" and 0 <= mean <= 1 and (count := counts.get(f"num_{split}")):  # not one in percent
            tile["label"] += f"; ± {math.sqrt(mean * (1 - mean) / count):.4f} of one run by its {count:,} images alone"
    count = len(best.jobs)
    return {"name": best.name, "runs": f"{count} run{'s' if count > 1 else ''}", "tiles": tiles}


def _images(setting: Setting) -> dict[str, int]:
    """How many images each split of a setting's runs has: the fewer, the more an accuracy is chance (a binomial's)."""
    return RunDir(Path(setting.jobs["run"].iloc[0])).read_provenance().get("data", {})


def commands(sweep: ReportData, limit: int = 3) -> list[dict[str, str]]:
    """How to train the best settings once more, each as its best run was."""
    lines = []
    for place, setting in enumerate(sweep.settings[:limit], start=1):
        done = setting.jobs[setting.jobs["state"] == "finished"]
        if sweep.metric not in done or done[sweep.metric].dropna().empty:
            continue
        scores = done[sweep.metric]
        best = done.loc[scores.idxmax() if sweep.mode == "max" else scores.idxmin()]
        job = next(job for job in sweep.plan.jobs if job.name == best["name"])
        given = [text for text in job.overrides if bare(text).split(".")[0] not in ("run", "sweep", "hydra")]
        text = shlex.join(["python", "train.py", *given])
        lines.append({"label": f"{place}. {setting.name}", "text": text})
    return lines


def print_best(sweep: ReportData, limit: int = 10) -> None:
    """The best settings in the terminal, and where the rest is."""
    table: Table = settings_table(sweep.settings[:limit], sweep.axes, sweep.metric, brief=True)
    rich_table = RichTable(title=f"Sweep {sweep.plan.name}: best by {sweep.metric}")
    for column in table.columns:
        rich_table.add_column(column.title, justify="right" if column.numeric else "left")
    for row in table.rows:
        rich_table.add_row(*(" ".join(filter(None, (cell.text, cell.extra))) for cell in row.cells))
    console = Console(
        highlight=False, soft_wrap=True, markup=False, emoji=False
    )  # a value may have brackets, a path too
    console.print(rich_table)
    if len(sweep.settings) > limit:
        console.print(f"and {len(sweep.settings) - limit} more settings")
    console.print(f"report         {sweep.directory.path / 'report.html'}")
    console.print(f"in Python      lithydra.results({str(sweep.directory.path)!r})")
