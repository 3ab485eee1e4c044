"""Sweep directories made by hand, for what reads them: nothing is trained."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lithydra.run.directory import RunDir
from lithydra.sweeps.directory import Job, Plan, SweepDir, readable_name

Score = Callable[[dict[str, str]], float]


def write_run(
    path: Path, score: float, *, state: str = "finished", epochs: int = 2, error: str | None = None
) -> RunDir:
    """A run whose validation accuracy ends at `score`; with the test's higher where validation's is lower."""
    run = RunDir(path)
    path.mkdir(parents=True)
    for epoch in range(1, epochs + 1):
        metrics = {
            "train/acc": score + 0.1,
            "val/acc": score * epoch / epochs,
            "val/loss": 1 - score,
            "train/loss": 0.1,
        }
        run.add_metrics(
            {"epoch": epoch, "step": epoch, "lr": 0.1, "training_seconds": epoch + score, "seconds": 1.5, **metrics}
        )
    metrics = {"train/acc": score + 0.1, "val/acc": score, "val/loss": 1 - score}
    if state == "finished":
        metrics["test/acc"] = 1 - score
    run.update_status(state=state, metrics=metrics, best_epoch=epochs, epoch=epochs, error=error)
    return run


def write_sweep(
    path: Path,
    axes: Mapping[str, Sequence[str]],
    score: Score,
    *,
    states: Mapping[str, str] | None = None,
    study: dict[str, Any] | None = None,
) -> SweepDir:
    """Every combination of `axes`, with the validation accuracy that `score` gives it.

    Args:
        states: By job name, of the jobs that are not finished; `not started` leaves no run directory.
    """
    sweep = SweepDir(path)
    path.mkdir(parents=True)
    jobs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        name = readable_name(point)
        jobs.append(Job(name, name, ["data=digits", *(f"{k}={v}" for k, v in point.items())], name))
        state = (states or {}).get(name, "finished")
        if state != "not started":
            error = f"{name} went astray" if state in ("failed", "diverged") else None
            write_run(path / name, score(point), state=state, error=error)
    objective = {"metric": "val/acc", "mode": "max"}
    command = ["python", "train.py", "-m", "data=digits", *(f"{k}={','.join(v)}" for k, v in axes.items())]
    sweep.write(
        Plan(path.name, command, objective, {k: list(v) for k, v in axes.items()}, ["data=digits"], study, jobs)
    )
    return sweep
