"""The command line: one table of verbs, one main() with one-line errors and the exit codes of the README.

Nothing here imports torch: `--help` and a typo cost what importing Hydra costs.
"""

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lithydra.checks.config import check
from lithydra.checks.messages import MENDABLE, first_line, one_line
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError, LithydraError
from lithydra.logs import set_up_logging
from lithydra.overrides import CONF, name_runs, quote_paths, refuse_arguments
from lithydra.run.directory import RunDir
from lithydra.run.signals import end_at_once_on_signal
from lithydra.training.resuming import resumed


def main(verb: str) -> NoReturn:
    """`python train.py` and `python scripts/VERB.py`: compose the verb's config, do its task with it, and exit.

    Exit codes: 0 done, 1 a run failed, 2 bad input, 3 diverged, 130 or 143 interrupted. What a person can mend is one
    line on stderr; `HYDRA_FULL_ERROR=1` adds the traceback. A bug has its traceback, once, and names the run directory.
    """
    from dotenv import load_dotenv

    load_dotenv(".env")
    end_at_once_on_signal()
    config_name, task = VERBS[verb]
    errors: list[Exception] = []

    @wraps(task)
    def guarded(config: DictConfig) -> Any:
        # Hydra puts a line of its own before an error that leaves the task; a sweep needs it to leave all the same.
        try:
            return task(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if not isinstance(error, MENDABLE):
                where = f"; run directory {config.run}" if config.get("run") else ""
                traceback.print_exc()
                print(f"error: {type(error).__name__}: {first_line(error)}{where}", file=sys.stderr)
            errors.append(error)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        sys.argv[1:] = quote_paths(name_runs(sys.argv[1:]) if verb == "compare" else sys.argv[1:])
        refuse_arguments(verb)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
    except MENDABLE as error:
        errors.append(error)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(_told(errors[0], traceback_wanted) if errors else 0)


def _told(error: Exception, traceback_wanted: bool) -> int:
    """Tell an error that a person can mend; returns the exit code."""
    if not isinstance(error, MENDABLE):
        return 1
    if traceback_wanted:
        traceback.print_exception(error)
    for line in one_line(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, LithydraError) else 2


def _train(config: DictConfig) -> float | None:
    job = HydraConfig.get()
    if config.sweep.job is not None:
        from lithydra.sweep.job import run_job

        set_up_logging()
        return run_job(Path(job.sweep.dir), config.sweep.job, config)
    _refuse_study_alone(config)
    if config.resume:
        config = resumed(RunDir.open(Path(str(config.resume)), "resume"), config, list(job.overrides.task))
    else:
        check(config, dict(job.runtime.choices))
    return _carry_out("train", config, dict(job.runtime.choices), list(job.overrides.task))


def _refuse_study_alone(config: DictConfig) -> None:
    """A study without -m trains one run: at a point of the study, or of nobody's choice."""
    job = HydraConfig.get()
    given = {override.lstrip("+~").partition("=")[0] for override in job.overrides.task}
    missing = [str(key) for key in job.sweeper.get("params") or () if key not in given]
    if missing:
        study = job.runtime.choices.get("study")
        raise ConfigError(f"study={study}: varies {', '.join(missing)}; -m trains them all, {missing[0]}=… one of them")


def _inspect_data(config: DictConfig) -> None:
    choices = dict(HydraConfig.get().runtime.choices)
    check(config, choices)
    _carry_out("inspect_data", config, choices)


def _lr_find(config: DictConfig) -> None:
    check(config, dict(HydraConfig.get().runtime.choices))
    _carry_out("lr_find", config, list(HydraConfig.get().overrides.task))


def _on_runs(verb: str, config: DictConfig) -> None:
    check_verb(config, verb)
    _carry_out(verb, config)


def _carry_out(verb: str, config: DictConfig, *more: Any) -> Any:
    """Import what does the work, and torch with it: only once the config is known to be good."""
    place = PLACES.get(verb, f"lithydra.verbs.{verb}")
    work = getattr(import_module(place), verb)
    set_up_logging()
    OmegaConf.set_struct(config, False)
    return work(config, *more)


PLACES = {"train": "lithydra.training.train", "report": "lithydra.report.page"}  # of the functions not in verbs/
# Of each verb, the config in conf/ and the task.
VERBS: dict[str, tuple[str, Callable[[DictConfig], Any]]] = {
    "train": ("train", _train),
    "inspect_data": ("train", _inspect_data),
    "lr_find": ("lr_find", _lr_find),
    **{
        verb: (verb, partial(_on_runs, verb))
        for verb in ("compare", "evaluate", "explain", "export", "predict", "report", "reproduce_run", "serve")
    },
}
