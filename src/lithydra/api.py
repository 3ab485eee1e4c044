"""Training, sweeps and runs from Python: a face over what the command line does, with exceptions for exit codes.

`lithydra.train`, `lithydra.sweep`, `lithydra.runs`; docs/python.md shows them.
"""

import html
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra

from lithydra.checks.messages import MENDABLE, one_line
from lithydra.errors import ConfigError, LithydraError
from lithydra.overrides import CONF, quote, quote_paths, refuse_arguments
from lithydra.run.directory import RunDir
from lithydra.run.listing import live_state
from lithydra.sweeps.directory import SweepDir
from lithydra.sweeps.runner import SweepRunner
from lithydra.verbs.table import VERBS, do, wait_briefly

if TYPE_CHECKING:
    import pandas as pd

    from lithydra.training.classifier import Classifier


class Run:
    """What one run gave. All of it is read from the run's directory, whenever it is asked for.

    Raises:
        ConfigError: There is no run in that directory.
    """

    def __init__(self, path: str | Path) -> None:
        self._directory = RunDir.open(Path(path))

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    @property
    def state(self) -> str:
        """running, finished, interrupted, failed, diverged or pruned; killed where it runs no more and said nothing."""
        return live_state(self._directory, str(self._directory.read_status().get("state", "not started")))

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the best epoch, and of the test split, as `{"val/acc": 0.97, …}`."""
        return self._directory.read_status().get("metrics", {})

    @property
    def config(self) -> dict[str, Any]:
        """What the run was trained with."""
        return self._directory.read_config()

    def curves(self) -> "pd.DataFrame":
        """One row an epoch: step, lr, the metrics, and the seconds that it took."""
        from lithydra.sweeps.results import epochs_of

        return epochs_of(self._directory)

    def load(self, checkpoint: str = "best", **settings: Any) -> "Classifier":
        """The trained model; `settings` are those of `lithydra.load`."""
        from lithydra.training.loading import load

        return load(self.path, checkpoint, **settings)

    def evaluate(self, *overrides: str) -> dict[str, float]:
        """Metrics of a split or of other data, as of scripts/evaluate.py: `run.evaluate("split=val", "tta=flip")`."""
        return _done("evaluate", [f"run={self.path}", *overrides])["metrics"]

    def resume(self, *overrides: str, max_epochs: int | None = None) -> "Run":
        """Go on where the run stopped, to `max_epochs` if that is given; returns the run itself."""
        longer = [] if max_epochs is None else [f"trainer.max_epochs={max_epochs}"]
        return train(f"resume={self.path}", *longer, *overrides)

    def __repr__(self) -> str:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Run({str(self.path)!r}: {self.state}{', ' if figures else ''}{figures})"

    def _repr_html_(self) -> str:
        cells = {"state": self.state, **{name: f"{value:.4f}" for name, value in self.metrics.items()}}
        head = "".join(f"<th>{html.escape(name)}</th>" for name in cells)
        row = "".join(f"<td>{html.escape(value)}</td>" for value in cells.values())
        return f"<b>{html.escape(str(self.path))}</b><table><tr>{head}</tr><tr>{row}</tr></table>"


class Sweep:
    """What a sweep gave.

    Raises:
        ConfigError: There is no sweep in that directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = SweepDir.open(Path(path)).path

    @property
    def report(self) -> Path:
        """The page of the sweep."""
        return self.path / "report.html"

    def results(self) -> "pd.DataFrame":
        """One row a job: see `lithydra.results`."""
        from lithydra.sweeps.results import results

        return results(self.path)

    def runs(self) -> list[Run]:
        """Those of its jobs that have begun, in the order of the plan."""
        sweep = SweepDir(self.path)
        return [Run(sweep.run(job).path) for job in sweep.read().jobs if sweep.run(job).config.exists()]

    def __repr__(self) -> str:
        return f"Sweep({str(self.path)!r})"

    def _repr_html_(self) -> str:
        return f"<b>{html.escape(str(self.path))}</b>{self.results().drop(columns=['error', 'run'])._repr_html_()}"  # pyright: ignore[reportCallIssue]


def train(*overrides: str, run: str | Path | None = None) -> Run:
    """Train in this process what `python train.py OVERRIDES` would train, with the same checks and the same result.

    Ctrl-C, or a notebook's stop button, saves and raises RunInterrupted; `Run(path).resume()` goes on.

    Args:
        overrides: As on the command line: `"data=mnist"`, `"lr=0.1"`.
        run: Directory of the run; None makes one below outputs/runs.

    Raises:
        ConfigError: A setting cannot work; nothing was trained.
        LithydraError: It failed, diverged or was interrupted.
    """
    place = [] if run is None else [f"run={run}"]
    return Run(_done("train", [*overrides, *place])["run"])


def sweep(*overrides: str, name: str | None = None) -> Sweep:
    """Train many runs, as `python train.py -m OVERRIDES` does, in processes of their own; the same call goes on.

    Args:
        overrides: As on the command line: `"lr=0.1,0.01"`, `"seed=0,1,2"`.
        name: Of the sweep, below outputs/sweeps; None makes one of the overrides.

    Raises:
        ConfigError: A setting cannot work; nothing was trained.
        RunInterrupted: It was stopped; the same call goes on.
        LithydraError: Some jobs have no result.
    """
    named = [] if name is None else [f"sweep.name={quote(name)}"]
    _through_hydra("train", ["-m", *overrides, *named], lambda config: do("train", config))
    assert SweepRunner.last is not None
    return Sweep(SweepRunner.last.path)


def _done(verb: str, overrides: list[str]) -> dict[str, Any]:
    """What a verb has found with these settings."""
    found: list[dict[str, Any]] = []
    _through_hydra(verb, overrides, lambda config: found.append(do(verb, config)))
    return found[0]


def _through_hydra(verb: str, arguments: list[str], task: Callable[[Any], Any]) -> None:
    """Compose a verb's config and hand it to the task, as the command line does: errors come as LithydraError."""
    wait_briefly()
    script = CONF.parent / ("train.py" if verb == "train" else f"scripts/{verb}.py")
    with _replaced(sys.argv, [os.path.relpath(script), *quote_paths(arguments)]), _traceback_wanted(), _logging_kept():
        try:
            refuse_arguments(verb)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=VERBS[verb][0])(task)()
        except LithydraError:
            raise
        except MENDABLE as error:
            raise ConfigError(one_line(error)) from error


@contextmanager
def _replaced(content: list[str], other: list[str]) -> Iterator[None]:
    """The content of a list, for a while: of sys.argv, which a run records as its command."""
    before = content[:]
    content[:] = other
    try:
        yield
    finally:
        content[:] = before


@contextmanager
def _logging_kept() -> Iterator[None]:
    """The root logger's handlers and level come back: the command line has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _traceback_wanted() -> Iterator[None]:
    """Hydra raises its errors instead of printing them and leaving the process."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        del os.environ["HYDRA_FULL_ERROR"]
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before
