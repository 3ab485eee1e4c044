"""How much each varied key matters, and what accuracy costs: shares of variance, and settings that no other beats."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lithydra.report.figures import distinct, is_numeric, plain_log_ticks, wants_log, words
from lithydra.run.style import GREY, INK, PALETTE, SOFT, shortened
from lithydra.sweeps.results import Frame, Setting

LEAST_TRIALS = 10  # of a search: fewer tell nothing
REST = "together, and by chance"  # what no key explains by itself
TREES, SEED = 64, 0  # of the random forest
LABELS = 8  # settings on the front that are named


def shares_of_variance(frame: Frame, axes: Sequence[str], metric: str) -> dict[str, float]:
    """By key, the share of the objective's variance over the finished runs that its values explain alone, in [0, 1].

    Sums of squares between the values of a key over the total (eta squared; Fisher, 1925). Of a whole grid they are
    main effects and add up to at most 1; the rest is what keys do together and what seeds do.
    """
    done = frame[(frame["state"] == "finished") & frame[metric].notna()]
    scores = done[metric].astype(float)
    total = float(((scores - scores.mean()) ** 2).sum())
    if len(done) < 2 or total == 0:
        return {}
    shares = {
        axis: float((scores.groupby(done[axis].astype(str)).transform("mean") - scores.mean()).pow(2).sum()) / total
        for axis in axes
    }
    return {**shares, REST: max(0.0, 1 - sum(shares.values()))} if sum(shares.values()) <= 1 + 1e-9 else shares


def importance_in_search(frame: Frame, axes: Sequence[str], metric: str) -> dict[str, float]:
    """By key, the share of the objective's variance over the whole space that it explains, by a forest's estimate.

    Of Optuna's fANOVA (Hutter, Hoos and Leyton-Brown, 2014), since a search does not try every combination. Empty for
    few trials, where no trial differs from another, and where Optuna is not installed.
    """
    done = frame[(frame["state"] == "finished") & frame[metric].notna()].dropna(subset=list(axes))
    if len(done) < LEAST_TRIALS or done[metric].nunique() < 2:
        return {}
    try:
        import optuna
    except ImportError:
        return {}
    columns = {axis: _column(done[axis]) for axis in axes if done[axis].nunique() > 1}
    spaces = {axis: _space(optuna.distributions, distinct(values)) for axis, values in columns.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for place, score in enumerate(done[metric]):
        params = {axis: values[place] for axis, values in columns.items()}
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=float(score)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parts of Optuna that are on trial
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=SEED)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    return {axis: float(share) for axis, share in found.items()}


def _column(values: Frame) -> list[Any]:
    """A key's values: numbers where all are, else text."""
    return list(values) if is_numeric(values) else [str(value) for value in values]


def _space(distributions: Any, values: Sequence[Any]) -> Any:
    """What a key may be, as far as the trials tell."""
    if not is_numeric(values):
        return distributions.CategoricalDistribution(values)
    return distributions.FloatDistribution(float(min(values)), float(max(values)), log=wants_log(values))


def importance(shares: dict[str, float], metric: str) -> Figure | None:
    """A bar a key, the largest on top."""
    if len([name for name in shares if name != REST]) < 2:
        return None
    order = sorted((name for name in shares if name != REST), key=shares.__getitem__, reverse=True)
    order += [name for name in (REST,) if name in shares]
    figure = Figure(figsize=(10.4, 0.9 + 0.34 * len(order)), layout="constrained")
    panel = figure.subplots()
    values = [100 * shares[name] for name in order]
    panel.barh(range(len(order)), values, height=0.62, color=[GREY if name == REST else PALETTE[0] for name in order])
    for row, value in enumerate(values):
        panel.annotate(f"{value:.0f} %", (value, row), (5, 0), textcoords="offset points", va="center", color=SOFT)
    panel.set_yticks(range(len(order)), order)
    panel.set_ylim(len(order) - 0.4, -0.6)
    panel.set_xlim(0, 1.12 * max(values))
    panel.grid(axis="y", visible=False)
    panel.set_xlabel(f"share of the variance of {words(metric)}, in percent")
    return figure


def front(points: Sequence[tuple[float, float]], mode: str) -> list[int]:
    """Of (cost, score), the positions that no other is better than in one and as good in the other; cheapest first."""
    sign = 1.0 if mode == "max" else -1.0
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    found: list[int] = []
    for i in order:
        if not found or sign * points[i][1] > sign * points[found[-1]][1]:
            found.append(i)
    return found


def pareto(settings: Sequence[Setting], metric: str, mode: str) -> Figure | None:
    """The objective by the seconds of training, a dot a setting; those that no other beats in both are joined."""
    shown = [s for s in settings if metric in s.metrics and "seconds" in s.metrics]
    if len(shown) < 3:
        return None
    points = [(s.metrics["seconds"].mean, s.metrics[metric].mean) for s in shown]
    best = front(points, mode)
    seconds, scores = np.array(points).T
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    panel = figure.subplots()
    panel.scatter(seconds, scores, s=34, color=GREY, lw=0, alpha=0.75)
    panel.plot(seconds[best], scores[best], color=PALETTE[1], marker="o", ms=7, lw=1.6, drawstyle="steps-post")
    if wants_log(seconds.tolist()):
        panel.set_xscale("log")
        plain_log_ticks(panel.xaxis)
    named = {f"{number}  {shortened(shown[i].name, 46)}": i for number, i in enumerate(best[-LABELS:], start=1)}
    for label, i in named.items():
        panel.annotate(label.split()[0], points[i], (-7, 5), textcoords="offset points", ha="right", color=INK)
    handles = [Line2D([], [], lw=0, label=label) for label in named]
    panel.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), handlelength=0, handletextpad=0)
    panel.set_xlabel("seconds of training (mean over repeats)")
    panel.set_ylabel(words(metric))
    panel.margins(x=0.08, y=0.18)
    return figure
