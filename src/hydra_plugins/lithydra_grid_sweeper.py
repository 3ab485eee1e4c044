"""hydra/sweeper=grid: every combination. Light, because every start of every script imports it."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Trains every combination of the values given, each once, in a directory that the same command continues."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.master = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from lithydra.sweeps.plan import Request
        from lithydra.sweeps.runner import SweepRunner

        request = Request.parse(self.context.config_loader, self.params, arguments)
        sweep = SweepRunner(self.master, self.context, self.task, request)
        names, values = list(request.axes), list(request.axes.values())
        points = [dict(zip(names, combination, strict=True)) for combination in product(*values)]
        sweep.warm_up()
        prepared = sweep.prepare(points)
        with sweep.opened():
            sweep.launch(sweep.add(prepared))
            from lithydra.report.page import report_sweep  # imports pandas: at the end, when nothing waits for it

            report_sweep(sweep.directory.path)
            sweep.finish()


@dataclass
class GridSweeperConf:
    _target_: str = "hydra_plugins.lithydra_grid_sweeper.GridSweeper"
    params: dict[str, Any] | None = field(default=None)


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridSweeperConf, provider="lithydra")
