"""hydra/sweeper=optuna: a search. Light, because every start of every script imports it."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Trains what Optuna suggests; `settings` are those of conf/hydra/sweeper/optuna.yaml (docs/search.md)."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.master = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from lithydra.search.driver import Search

        Search(self.settings, self.context, self.task, self.master, arguments).run()
