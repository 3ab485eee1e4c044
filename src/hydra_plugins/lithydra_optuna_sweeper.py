"""hydra/sweeper=optuna: a search. Light, because every start of every script imports it."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Trains what Optuna suggests; `settings` are those of conf/hydra/sweeper/optuna.yaml (docs/search.md)."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from lithydra.search.driver import Search

        Search(self.settings, self.hydra_context.config_loader, self.config, self.launcher, arguments).run()
