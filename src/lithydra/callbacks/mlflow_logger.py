"""Lightning's MLflow logger, for the jobs of a sweep, which begin at the same time."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.loggers import MLFlowLogger

SQLITE = "sqlite:///"


class LockedMLFlowLogger(MLFlowLogger):
    """Makes the store and the experiment under a lock: MLflow makes the tables of a new SQLite file without one."""

    __signature__ = inspect.signature(MLFlowLogger)  # the settings that it takes are Lightning's

    def __init__(self, **settings: Any) -> None:
        self._lock = _lock(str(settings.get("tracking_uri")))
        with self._lock:
            super().__init__(**settings)

    @property
    def experiment(self) -> Any:
        """The MlflowClient, on the first process."""
        if self._initialized:
            return self._mlflow_client
        with self._lock:
            return super().experiment


def _lock(tracking_uri: str) -> AbstractContextManager[Any]:
    """A lock beside a store that is a file; a server has its own."""
    if not tracking_uri.startswith(SQLITE):
        return nullcontext()
    store = Path(tracking_uri.removeprefix(SQLITE))
    store.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{store}.lock")
