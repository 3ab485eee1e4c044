"""Trackio's records for Lightning: curves of all runs in one local dashboard, without an account."""

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Writes to one store below a folder; `TRACKIO_DIR=folder trackio show` shows it.

    Args:
        name: Of the run. One that goes on under its name continues its curves.
        project: Under which the dashboard lists it.
        folder: Of the store. TRACKIO_DIR, where a person has set it, wins.
    """

    def __init__(self, name: str | None = None, project: str = "lithydra", folder: str = "outputs/trackio") -> None:
        super().__init__()
        os.environ.setdefault("TRACKIO_DIR", folder)  # read when trackio is imported
        self._name, self._project = name, project
        self._settings: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, which begins when something is written."""
        if self._run is None:
            import trackio  # pyright: ignore[reportMissingImports]

            given = {"config": self._settings, "resume": "allow", "embed": False}
            self._run = trackio.init(self._project, name=self._name, **given)
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._settings |= params if isinstance(params, dict) else vars(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
