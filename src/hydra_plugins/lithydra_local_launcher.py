"""hydra/launcher=local: jobs as processes of this machine. Light, because every start of every script imports it."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Forks each job from a server that has imported torch and loaded the data once."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from lithydra.sweeps.launcher import LocalJobs

        self.config = config
        self.jobs = LocalJobs()

    def warm_up(self, modules: Sequence[str]) -> None:
        """Let the server import torch, and `modules` of the jobs, while the sweeper is still at work."""
        self.jobs.start_server(modules)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lithydra.sweeps.launcher import job_returns, launched_jobs

        sweep, jobs = launched_jobs(self.config, job_overrides)
        self.jobs.run(sweep, jobs, self.config)
        return job_returns(sweep, jobs)

    def close(self) -> None:
        self.jobs.stop_server()


@dataclass
class LocalLauncherConf:
    _target_: str = "hydra_plugins.lithydra_local_launcher.LocalLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="lithydra")
