"""The command line: one table of verbs, one main() with one-line errors and the exit codes of the README.

Nothing here imports torch: `--help` and a typo cost what importing Hydra costs.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lithydra.arguments import CONFIG_DIRECTORY, name_runs, quote_paths, refuse_arguments
from lithydra.checks.config import check
from lithydra.checks.unread import TRAINER
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError, LithydraError, nearest
from lithydra.run.directory import RunDir
from lithydra.run.signals import end_at_once_on_signal
from lithydra.training.resuming import resumed

# What is told in one line.
MENDABLE = (LithydraError, HydraException, OmegaConfBaseException, YAMLError)


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
                print(f"error: {type(error).__name__}: {_first_line(error)}{where}", file=sys.stderr)
            errors.append(error)

    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        sys.argv[1:] = quote_paths(name_runs(sys.argv[1:]) if verb == "compare" else sys.argv[1:])
        refuse_arguments(verb)
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIRECTORY), config_name=config_name)(guarded)()
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
    for line in explain(error).splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, LithydraError) else 2


def explain(error: Exception) -> str:
    """One line: the key, the value given, what is allowed, and the nearest valid name."""
    if isinstance(error, LithydraError):
        return str(error)
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.removesuffix(".yaml").rpartition("/")
        choices = sorted(option for option in error.options or [] if not option.startswith("_"))
        return f"{group}={choice}: choose one of {', '.join(choices)}.{nearest(choice, choices)}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return _explain_unknown_key(cause, str(error))
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{os.path.relpath(mark.name)}, line {mark.line + 1}: not YAML: {error.problem}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value. {_first_line(error)}"
    return _first_line(cause if isinstance(cause, OmegaConfBaseException) else error)


def _explain_unknown_key(cause: OmegaConfBaseException, message: str) -> str:
    override = re.search(r"Could not override '([^']*)'", message)
    key = override.group(1) if override else str(cause.full_key)
    parent: Any = cause.parent_node
    prefix, name = str(parent._get_full_key("") or ""), str(cause.key)
    if prefix == "trainer" and name in TRAINER:
        return f"{key}: not taken, {TRAINER[name]}"
    siblings = [str(k) for k in parent if not str(k).startswith("_")]
    near = nearest(name, siblings)
    if not near:  # the right name at the wrong level
        root: Any = parent._get_root()
        places = [path for path in all_keys(root) if path.rpartition(".")[2] == name]
        near = f" Did you mean {places[0]}?" if places else ""
    elif prefix:
        near = near.replace("mean ", f"mean {prefix}.")
    allowed = f"; {prefix} has {', '.join(siblings)}" if prefix and not near else ""
    return f"{key}: no such setting{allowed}.{near}"


def all_keys(config: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a config, Hydra's own left out."""
    keys: list[str] = []
    for key in config:
        path = f"{prefix}{key}"
        if path == "hydra" or str(key).startswith("_"):
            continue
        keys.append(path)
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += all_keys(node, f"{path}.")
    return keys


def _first_line(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:2]) or type(error).__name__


def set_up_logging() -> None:
    """Our own messages to the terminal, without decoration; of the libraries, only warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("lithydra").setLevel(logging.INFO)
    logging.getLogger("hydra").setLevel(logging.CRITICAL)  # it tells what it raises again
    for name in ("lightning.pytorch", "lightning.fabric"):
        lightning = logging.getLogger(name)
        lightning.handlers.clear()
        lightning.setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15; nothing that a person can mend.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated")


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
