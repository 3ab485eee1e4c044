"""What is done with a config that has been composed: by verb, its checks, the module that does the work, and the work.

The command line and the functions of Python go through here. Torch is imported with the work, not before the checks.
"""

import os
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lithydra.checks import verbs
from lithydra.checks.config import check
from lithydra.errors import ConfigError
from lithydra.logs import set_up_logging
from lithydra.overrides import bare
from lithydra.run.directory import RunDir
from lithydra.training.importing import collector_at_rest
from lithydra.training.resuming import resumed

SPINS = "20000"  # of a thread that waits; 300,000 without it
# Of each verb, the config in conf/ and the module whose function of the verb's name does the work.
VERBS = {
    "train": ("train", "lithydra.training.train"),
    "inspect_data": ("train", "lithydra.verbs.inspect_data"),
    "lr_find": ("lr_find", "lithydra.verbs.lr_find"),
    "report": ("report", "lithydra.report.page"),
    **{
        verb: (verb, f"lithydra.verbs.{verb}")
        for verb in ("compare", "evaluate", "explain", "export", "predict", "reproduce_run", "runs", "serve")
    },
}
# What a directory is that is typed without a key, as `evaluate.py outputs/runs/first`.
DIRECTORY_OF = {
    **dict.fromkeys(("compare", "runs"), "runs"),
    **dict.fromkeys(("evaluate", "explain", "export", "predict", "reproduce_run", "serve"), "run"),
    "report": "sweep",
}


def wait_briefly() -> None:
    """Let threads that wait for each other give the core away soon; read when torch is imported.

    GNU OpenMP's spin for a while. Where another process has the core of the one that is waited for, a step of a net
    that two threads compute takes half as long with this; on a quiet machine it makes no difference. What a person has
    set stands.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def do(verb: str, config: DictConfig, *, own_process: bool = False) -> Any:
    """Check the config, import what does the work (and torch with it), and do it.

    Args:
        verb: One of VERBS.
        config: Composed.
        own_process: Whether the process is there for this verb alone.

    Returns:
        What the verb found, by name. Of a job of a sweep its objective.
    """
    if verb == "train" and config.sweep.job is not None:
        from lithydra.sweeps.job import run_job

        set_up_logging()
        return run_job(Path(HydraConfig.get().sweep.dir), config.sweep.job, config)
    config, *more = _checked(verb, config)
    with collector_at_rest() if own_process else nullcontext():
        work = getattr(import_module(VERBS[verb][1]), verb)
    set_up_logging()
    OmegaConf.set_struct(config, False)
    found = work(config, *more)
    return found if verb != "train" else {"run": config.run, **RunDir(Path(config.run)).read_status()}


def _checked(verb: str, config: DictConfig) -> tuple[Any, ...]:
    """The arguments of the verb's function. Raises ConfigError for a config that cannot work."""
    if verb in verbs.VERBS:
        verbs.check_verb(config, verb)
        return (config,)
    job = HydraConfig.get()
    choices, overrides = dict(job.runtime.choices), list(job.overrides.task)
    if verb == "train":
        _refuse_study_alone(job)
    if verb == "train" and config.resume:
        config = resumed(RunDir.open(Path(str(config.resume)), "resume"), config, overrides, choices)
    else:
        check(config, choices)
    return config, *{"train": (choices, overrides), "inspect_data": (choices,), "lr_find": (overrides,)}[verb]


def _refuse_study_alone(job: Any) -> None:
    """A study without -m trains one run: at a point of the study that the command line must name."""
    given = {bare(override) for override in job.overrides.task}
    missing = [str(key) for key in job.sweeper.get("params") or () if key not in given]
    if missing:
        study = job.runtime.choices.get("study")
        raise ConfigError(f"study={study}: varies {', '.join(missing)}; -m trains them all, {missing[0]}=… one of them")
