"""A sweep's report: a table in the terminal, results.csv, report.html, and report.md with its plots."""

import io
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable

from lithydra import effects, figures
from lithydra.axis_values import FOLDED, split_override, typed
from lithydra.histograms import read_histograms
from lithydra.report_tables import Table, jobs_table, settings_table
from lithydra.run_dir import RunDir
from lithydra.sweep_dir import Plan, SweepDir
from lithydra.sweep_results import (
    BAD_STATES,
    Frame,
    Setting,
    curves,
    duration,
    ranked_settings,
    results,
    varied,
)
from lithydra.verdicts import judge, overall

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A plot as it goes into the page, and the name of the same plot as a file."""

    title: str
    file: str
    svg: str


@dataclass(frozen=True)
class Section:
    """Pictures under one heading."""

    title: str
    note: str
    figures: list[Picture]


class Sweep:
    """All that a report is made of, read once."""

    def __init__(self, path: Path) -> None:
        self.directory = SweepDir.open(path)
        self.plan: Plan = self.directory.read()
        self.frame: Frame = results(path)
        self.axes = varied(self.plan)
        self.epochs: Frame = curves(self.frame, self.axes)
        self.settings = ranked_settings(self.frame, self.plan)
        self.metric, self.mode = self.plan.objective["metric"], self.plan.objective["mode"]
        self.folded = [axis for axis in FOLDED if len(self.plan.axes.get(axis, [])) > 1]
        self.is_search = any((path / name).exists() for name in ("optuna.db", "optuna.log"))

    @property
    def has_scores(self) -> bool:
        return self.metric in self.frame and bool(self.frame[self.metric].notna().any())


def report_sweep(path: Path) -> None:
    """Write the report of the sweep in `path`, as far as its jobs have come, and print its best.

    Raises:
        ConfigError: There is no sweep in `path`.
    """
    sweep = Sweep(path)
    sweep.frame.to_csv(path / "results.csv", index=False)
    content = _content(sweep)
    _write(path / "report.html", _render("report.html.j2", content))
    _write(path / "report.md", _render("report.md.j2", content))
    print_best(sweep)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _render(template: str, content: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=template.endswith(".html.j2"),
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment.get_template(template).render(content)


def _content(sweep: Sweep) -> dict[str, Any]:
    plan, study = sweep.plan, sweep.plan.study or {}
    outcomes = judge(study, sweep.frame, sweep.epochs, list(plan.axes), plan.objective)
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
        "outcomes": outcomes,
        "verdict": overall(outcomes) if outcomes else None,
        "objective": f"{figures.words(sweep.metric)} ({'highest' if sweep.mode == 'max' else 'lowest'})",
        "tested": "test/acc" in sweep.frame,
        "best": _best(sweep),
        "axes": _axes(plan),
        "common": shlex.join(plan.common),
        "folded": " and ".join(_folded_words(plan, axis) for axis in sweep.folded),
        "settings_table": settings_table(sweep.settings, sweep.axes, sweep.metric),
        "jobs_table": jobs_table(sweep.frame, list(plan.axes), sweep.metric, sweep.mode),
        "groups": _sections(sweep),
        "failures": bad[["name", "state", "error"]].fillna("no message").to_dict("records"),
        "commands": commands(sweep),
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


def _best(sweep: Sweep) -> dict[str, Any] | None:
    best = sweep.settings[0] if sweep.settings else None
    if best is None or sweep.metric not in best.metrics:
        return None
    tiles = [{"text": str(best.metrics[sweep.metric]), "label": figures.words(sweep.metric)}]
    for name in ("val/acc", "test/acc", "test/loss"):
        if name in best.metrics and name != sweep.metric:
            label = figures.words(name) + (", not used to choose" if name.startswith("test") else "")
            tiles.append({"text": str(best.metrics[name]), "label": label})
    if half_width := best.metrics[sweep.metric].half_width:
        tiles[0]["label"] += f"; 95 % interval ± {half_width:.4f}"
    count = len(best.jobs)
    return {"name": best.name, "runs": f"{count} run{'s' if count > 1 else ''}", "tiles": tiles}


def commands(sweep: Sweep, limit: int = 3) -> list[dict[str, str]]:
    """How to train the best settings once more, each as its best run was."""
    lines = []
    for place, setting in enumerate(sweep.settings[:limit], start=1):
        done = setting.jobs[setting.jobs["state"] == "finished"]
        if sweep.metric not in done or done[sweep.metric].dropna().empty:
            continue
        scores = done[sweep.metric]
        best = done.loc[scores.idxmax() if sweep.mode == "max" else scores.idxmin()]
        job = next(job for job in sweep.plan.jobs if job.name == best["name"])
        given = [
            f"{key}={value}"
            for key, value in map(split_override, job.overrides)
            if key.split(".")[0] not in ("run", "sweep", "hydra")
        ]
        text = shlex.join(["python", "train.py", *_reproducible(given, job.overrides)])
        lines.append({"label": f"{place}. {setting.name}", "text": text})
    return lines


def _reproducible(given: list[str], overrides: list[str]) -> list[str]:
    """The overrides with the `+` and `~` that they were given with."""
    signs = {override.lstrip("+~"): override for override in overrides}
    return [signs.get(override, override) for override in given]


def _sections(sweep: Sweep) -> list[Section]:
    """The pictures that this sweep has the numbers for."""
    plots = Plots(sweep.directory.path / "plots")
    sections: list[Section] = []

    def add(title: str, note: str, pictures: list[Picture | None]) -> None:
        if shown := [picture for picture in pictures if picture]:
            sections.append(Section(title, note, shown))

    if sweep.has_scores:
        add("What each setting does", _effects_note(sweep), _effect_pictures(sweep, plots))
    if not sweep.epochs.empty:
        note = "A line a setting, the mean over its repeats; faint, each run." if sweep.folded else "A line a run."
        add(
            "Learning curves",
            note,
            [
                plots.save(
                    f"Learning curves by {axis}",
                    f"curves_{axis}",
                    lambda axis=axis: figures.learning_curves(sweep.epochs, axis, sweep.axes),
                )
                for axis in (sweep.axes or ["name"])
            ],
        )
    note = "How much better a setting is on what it was trained on. A wide gap is overfitting."
    add(
        "Training and validation",
        note,
        [plots.save("Training and validation accuracy", "gap", lambda: figures.gaps(sweep.settings))],
    )
    histograms = _histograms(sweep.settings)
    note = "Weights and biases at the end of training, of one run a setting; one scale along each row."
    add(
        "Parameter distributions",
        note,
        [plots.save("Parameter distributions", "histograms", lambda: figures.histogram_grid(histograms))],
    )
    return sections


def _effects_note(sweep: Sweep) -> str:
    note = f"{figures.words(sweep.metric).capitalize()} at the best epoch."
    if len(sweep.axes) > 2 or sweep.is_search:
        return f"{note} Of one key, over all values of the others: the mean and its 95 % interval."
    return f"{note} Dots are runs, bars 95 % intervals of the mean." if sweep.folded else note


def _effect_pictures(sweep: Sweep, plots: "Plots") -> list[Picture | None]:
    axes, metric, mode = sweep.axes, sweep.metric, sweep.mode
    pictures: list[Picture | None] = []
    if sweep.is_search:
        pictures.append(
            plots.save("Search history", "history", lambda: effects.search_history(sweep.frame, metric, mode))
        )
    if len(axes) == 2 and not sweep.is_search:
        pictures.append(
            plots.save(
                "Heat map",
                "heat_map",
                lambda: effects.heat_map(sweep.frame, sweep.settings, axes[0], axes[1], metric, mode),
            )
        )
    if len(axes) > 2:
        pictures.append(
            plots.save(
                "Parallel coordinates",
                "parallel",
                lambda: effects.parallel_coordinates(sweep.settings, axes, metric, mode),
            )
        )
    for axis in axes:
        other = next((a for a in axes if a != axis), None) if len(axes) == 2 and not sweep.is_search else None
        title = f"Effect of {axis}"
        pictures.append(
            plots.save(
                title, f"effect_{axis}", lambda axis=axis, other=other: effects.effect(sweep.frame, axis, other, metric)
            )
        )
    return pictures


def _histograms(settings: list[Setting]) -> dict[str, Any]:
    found = {}
    for setting in sorted(settings, key=lambda setting: setting.jobs.index.min()):  # as they were given, not ranked
        runs = (read_histograms(RunDir(Path(path))) for path in setting.jobs["run"])
        if histograms := next((read for read in runs if read), None):
            found[setting.name] = histograms
    return found


class Plots:
    """The folder `plots`: each picture as a PNG for report.md, and as SVG for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, title: str, name: str, draw: Callable[[], Figure | None]) -> Picture | None:
        file, buffer = f"{name.replace('/', '_')}.png", io.StringIO()
        with figures.style():
            figure = draw()
            if figure is None:
                return None
            self.folder.mkdir(exist_ok=True)
            figure.savefig(self.folder / file, dpi=110)
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        return Picture(title, file, svg[svg.index("<svg") :])


def print_best(sweep: Sweep, limit: int = 10) -> None:
    """The best settings in the terminal, and where the rest is."""
    table: Table = settings_table(sweep.settings[:limit], sweep.axes, sweep.metric, brief=True)
    rich_table = RichTable(title=f"Sweep {sweep.plan.name}: best by {sweep.metric}")
    for column in table.columns:
        rich_table.add_column(column.title, justify="right" if column.numeric else "left")
    for row in table.rows:
        rich_table.add_row(*(" ".join(filter(None, (cell.text, cell.extra))) for cell in row.cells))
    console = Console(highlight=False, soft_wrap=True)
    console.print(rich_table)
    if len(sweep.settings) > limit:
        console.print(f"and {len(sweep.settings) - limit} more settings")
    console.print(f"report         {sweep.directory.path / 'report.html'}")
    console.print(f"in Python      lithydra.results({str(sweep.directory.path)!r})")
