"""The pictures of a sweep's report: each as a PNG for report.md, and as SVG for the page."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lithydra.files import naming, write_bytes
from lithydra.report import effects, figures, importance
from lithydra.report.input import ReportData
from lithydra.report.layer_figures import layers_at_start
from lithydra.run.directory import RunDir
from lithydra.run.histograms import Histogram, last_parameters
from lithydra.run.style import style
from lithydra.sweeps.results import Setting, readable


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


class Plots:
    """The folder `plots`: each picture as a PNG for report.md, and as SVG for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: set[str] = set()

    def save(self, title: str, name: str, draw: Callable[[], Figure | None]) -> Picture | None:
        file, png, svg = f"{name.replace('/', '_')}.png", io.BytesIO(), io.StringIO()
        with style():
            figure = draw()
            if figure is None:
                return None
            figure.savefig(png, dpi=110)
            figure.savefig(svg, format="svg", metadata={"Date": None})
        with naming(self.folder):
            self.folder.mkdir(exist_ok=True)
        write_bytes(self.folder / file, png.getvalue())
        self.files.add(file)
        text = svg.getvalue()
        return Picture(title, file, text[text.index("<svg") :])

    def remove_others(self) -> None:
        """What an earlier report drew and this one did not."""
        for path in self.folder.glob("*.png"):
            if path.name not in self.files:
                path.unlink()


def sections(sweep: ReportData) -> list[Section]:
    """The pictures that this sweep has the numbers for."""
    plots = Plots(sweep.directory.path / "plots")
    found: list[Section] = []

    def add(title: str, note: str, *pictures: Picture | None) -> None:
        if shown := [picture for picture in pictures if picture]:
            found.append(Section(title, note, shown))

    if sweep.has_scores:
        add("What each setting does", _effects_note(sweep), *_effect_pictures(sweep, plots))
        add("What matters", _importance_note(sweep), _importance_picture(sweep, plots))
        note = "A dot a setting; those on the line are beaten by no other in both. Jobs that ran at once took longer."
        add("What it costs", note, plots.save("Time and result", "pareto", lambda: _pareto(sweep)))
    if not sweep.epochs.empty:
        note = (
            "A line a setting, the mean over its repeats; faint, each run."
            if sweep.folded
            else "A line a run; a cross ends those that were pruned."
            if (sweep.frame["state"] == "pruned").any()
            else "A line a run."
        )
        add("Learning curves", note, *_curve_pictures(sweep, plots))
    note = "How much better a setting is on what it was trained on. A wide gap is overfitting."
    gap = plots.save("Training and validation accuracy", "gap", lambda: figures.gaps(sweep.settings))
    add("Training and validation", note, gap)
    note = "Before training, on the first training images; the mean over repeats."
    layers = plots.save("By layer", "layers", lambda: layers_at_start(sweep.settings_as_given))
    add("Gradients and activations by layer", note, layers)
    note = "Weights and biases at the end of training, of one run a setting; one scale along each row."
    histograms = _histograms(sweep.settings_as_given)
    grid = plots.save("Parameter distributions", "histograms", lambda: figures.histogram_grid(histograms))
    add("Parameter distributions", note, grid)
    plots.remove_others()
    return found


def _curve_pictures(sweep: ReportData, plots: Plots) -> list[Picture | None]:
    return [
        plots.save(
            f"Learning curves by {axis}",
            f"curves_{axis}",
            lambda axis=axis: figures.learning_curves(sweep.epochs, axis, sweep.axes, sweep.metric),
        )
        for axis in (sweep.axes or ["name"])
    ]


def _effects_note(sweep: ReportData) -> str:
    note = f"{figures.words(sweep.metric).capitalize()} at the best epoch."
    if len(sweep.axes) > 2 or sweep.is_search:
        return f"{note} Of one key, over all values of the others: the mean and its 95 % interval."
    return f"{note} Dots are runs, bars 95 % intervals of the mean." if sweep.folded else note


def _effect_pictures(sweep: ReportData, plots: Plots) -> list[Picture | None]:
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


def _pareto(sweep: ReportData) -> Figure | None:
    return importance.pareto(sweep.settings, sweep.metric, sweep.mode)


def _importance_note(sweep: ReportData) -> str:
    if sweep.is_search:
        return (
            "How much of the differences over the whole space each key explains, estimated by a random forest (fANOVA)."
        )
    return "How much of the differences between the runs each key explains alone (eta squared)."


def _importance_picture(sweep: ReportData, plots: Plots) -> Picture | None:
    measure = importance.importance_in_search if sweep.is_search else importance.shares_of_variance

    def draw() -> Figure | None:
        return importance.importance(measure(sweep.frame, sweep.axes, sweep.metric), sweep.metric)

    return plots.save("Importance", "importance", draw)


def _histograms(settings: list[Setting]) -> dict[str, Any]:
    found = {}
    for setting in settings:
        runs = map(_histograms_of, map(Path, setting.jobs["run"]))
        if histograms := next((read for read in runs if read), None):
            found[setting.name] = histograms
    return found


def _histograms_of(path: Path) -> dict[str, Histogram]:
    run = RunDir(path)
    return readable(run.histograms, lambda: last_parameters(run), {})
