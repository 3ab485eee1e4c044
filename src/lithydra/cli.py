"""The command line: one table of verbs, one main() with one-line errors and the exit codes of the README.

Nothing here imports torch: `--help` and a typo cost what importing Hydra costs.
"""

import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lithydra.checks import verbs
from lithydra.checks.config import check
from lithydra.checks.messages import MENDABLE, one_line
from lithydra.errors import ConfigError, LithydraError, first_line
from lithydra.logs import set_up_logging
from lithydra.overrides import CONF, bare, name_runs, quote_paths, refuse_arguments
from lithydra.run.directory import RunDir
from lithydra.run.signals import EXIT_CODES, end_at_once_on_signal
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
        for verb in ("compare", "evaluate", "explain", "export", "predict", "reproduce_run", "serve")
    },
}


def main(verb: str) -> NoReturn:
    """`python train.py` and `python scripts/VERB.py`: compose the verb's config, do its task with it, and exit.

    Exit codes: 0 done, 1 a run failed, 2 bad input, 3 diverged, 130 or 143 interrupted. What a person can mend is one
    line on stderr; `HYDRA_FULL_ERROR=1` adds the traceback. A bug has its traceback, once, and names the run directory.
    """
    from dotenv import load_dotenv

    load_dotenv(".env")
    wait_briefly()
    end_at_once_on_signal()
    errors: list[Exception] = []

    def guarded(config: DictConfig) -> Any:
        # Hydra puts a line of its own before an error that leaves the task; a sweep needs it to leave all the same.
        try:
            return _do(verb, config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if not isinstance(error, MENDABLE):
                where = f"; run directory {config.run}" if config.get("run") else ""
                traceback.print_exc()
                print(f"error: {type(error).__name__}: {first_line(error, lines=2)}{where}", file=sys.stderr)
            errors.append(error)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        sys.argv[1:] = quote_paths(name_runs(sys.argv[1:]) if verb == "compare" else sys.argv[1:])
        refuse_arguments(verb)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=VERBS[verb][0])(guarded)()
    except MENDABLE as error:
        errors.append(error)
    except KeyboardInterrupt:
        sys.exit(EXIT_CODES[signal.SIGINT])
    sys.exit(_exit_code(errors[0], traceback_wanted) if errors else 0)


def wait_briefly() -> None:
    """Let threads that wait for each other give the core away soon; read when torch is imported.

    GNU OpenMP's spin for a while. Where another process has the core of the one that is waited for, a step of a net
    that two threads compute takes half as long with this; on a quiet machine it makes no difference. What a person has
    set stands.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _exit_code(error: Exception, traceback_wanted: bool) -> int:
    """Print an error that a person can mend; others are printed already."""
    if not isinstance(error, MENDABLE):
        return 1
    if traceback_wanted:
        traceback.print_exception(error)
    for line in one_line(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, LithydraError) else 2


def _do(verb: str, config: DictConfig) -> Any:
    """Check the config, import what does the work (and torch with it), and do it."""
    if verb == "train" and config.sweep.job is not None:
        from lithydra.sweep.job import run_job

        set_up_logging()
        return run_job(Path(HydraConfig.get().sweep.dir), config.sweep.job, config)
    config, *more = _checked(verb, config)
    work = getattr(import_module(VERBS[verb][1]), verb)
    set_up_logging()
    OmegaConf.set_struct(config, False)
    return work(config, *more)


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
