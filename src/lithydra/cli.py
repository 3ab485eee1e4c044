"""The command line: Hydra's entry point with one-line errors and the exit codes of the README.

Nothing here imports torch: `--help` and a typo cost what importing Hydra costs.
"""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lithydra.arguments import quote, quote_paths
from lithydra.checks import check
from lithydra.errors import ConfigError, LithydraError, nearest
from lithydra.extras import require_extra
from lithydra.resume_config import resumed
from lithydra.run_dir import RunDir
from lithydra.signals import end_at_once_on_signal
from lithydra.unread import TRAINER
from lithydra.verb_checks import EVALUATE, EXPLAIN, EXPORT, REPRODUCE_RUN, SERVE, check_predict, check_verb

HYDRA_OPTIONS = (
    "--config-path",
    "--config-name",
    "--config-dir",
    "--cfg",
    "--package",
    "--info",
    "--experimental-rerun",
)
CONFIG_DIRECTORY = os.path.join(os.path.dirname(__file__), "..", "..", "conf")


def run(task: Callable[[DictConfig], Any], config_name: str) -> NoReturn:
    """Compose conf/`config_name`.yaml with the command line, call `task` with it, and exit.

    Exit codes: 0 done, 1 a run failed, 2 bad input, 3 diverged, 130 or 143 interrupted. What a person can mend is one
    line on stderr; `HYDRA_FULL_ERROR=1` adds the traceback.
    """
    from dotenv import load_dotenv

    load_dotenv(".env")
    end_at_once_on_signal()
    errors: list[Exception] = []

    @wraps(task)
    def guarded(config: DictConfig) -> Any:
        # Hydra puts a line of its own before an error that leaves the task; a sweep needs it to leave all the same.
        try:
            return task(config)
        except LithydraError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            errors.append(error)

    if dashed := [a for a in sys.argv[1:] if re.match(r"--\w+(\.\w+)*=", a) and a.split("=")[0] not in HYDRA_OPTIONS]:
        print(f"error: {dashed[0]}: settings have no dashes: {dashed[0].lstrip('-')}", file=sys.stderr)
        sys.exit(ConfigError.exit_code)
    sys.argv[1:] = quote_paths(sys.argv[1:])
    traceback_wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them
    try:
        hydra.main(version_base="1.3", config_path=CONFIG_DIRECTORY, config_name=config_name)(guarded)()
        if errors:
            raise errors[0]
    except (LithydraError, HydraException, OmegaConfBaseException) as error:
        if traceback_wanted:
            traceback.print_exc()
        for line in explain(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, LithydraError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


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


def main_train() -> NoReturn:
    """`python train.py`."""
    run(_train, "train")


def _train(config: DictConfig) -> float | None:
    job = HydraConfig.get()
    if config.sweep.job is not None:
        from lithydra.sweep_job import run_job

        set_up_logging()
        return run_job(Path(job.sweep.dir), config.sweep.job)
    if config.resume:
        config = resumed(RunDir.open(Path(str(config.resume)), "resume"), config, list(job.overrides.task))
    check(config)

    from lithydra.train import train  # imports torch, so only once the config is known to be good

    set_up_logging()
    OmegaConf.set_struct(config, False)
    return train(config, dict(job.runtime.choices), list(job.overrides.task))


def main_inspect_data() -> NoReturn:
    """`python scripts/inspect_data.py`."""
    run(_inspect_data, "train")


def _inspect_data(config: DictConfig) -> None:
    check(config)
    from lithydra.inspect_data import inspect_data

    set_up_logging()
    OmegaConf.set_struct(config, False)
    inspect_data(config, dict(HydraConfig.get().runtime.choices))


def main_lr_find() -> NoReturn:
    """`python scripts/lr_find.py`."""
    run(_lr_find, "lr_find")


def _lr_find(config: DictConfig) -> None:
    check(config)
    from lithydra.lr_find import lr_find

    set_up_logging()
    OmegaConf.set_struct(config, False)
    lr_find(config, list(HydraConfig.get().overrides.task))


def main_evaluate() -> NoReturn:
    """`python scripts/evaluate.py`."""
    run(_evaluate, "evaluate")


def _evaluate(config: DictConfig) -> None:
    check_verb(config, EVALUATE)
    from lithydra.evaluate import evaluate

    set_up_logging()
    evaluate(config)


def main_predict() -> NoReturn:
    """`python scripts/predict.py`."""
    run(_predict, "predict")


def _predict(config: DictConfig) -> None:
    check_predict(config)
    from lithydra.predict import predict

    set_up_logging()
    predict(config)


def main_report() -> NoReturn:
    """`python scripts/report.py`."""
    run(_report, "report")


def _report(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "sweep"):
        raise ConfigError("sweep: must be given, as sweep=outputs/sweeps/NAME")
    from lithydra.report import report_sweep

    report_sweep(Path(config.sweep))


def main_export() -> NoReturn:
    """`python scripts/export.py`."""
    run(_export, "export")


def _export(config: DictConfig) -> None:
    check_verb(config, EXPORT)
    if config.format == "onnx":
        require_extra("export", "onnx", "onnxscript", "onnxruntime")
    from lithydra.export import export

    set_up_logging()
    export(config)


def main_compare() -> NoReturn:
    """`python scripts/compare.py RUN RUN …`."""
    # A directory may have = in its name, as those of a sweep do.
    runs = [a for a in sys.argv[1:] if not a.startswith("-") and ("=" not in a or os.path.isdir(a))]
    if runs:
        quoted = ",".join(map(quote, runs))
        sys.argv[1:] = [*(a for a in sys.argv[1:] if a not in runs), f"runs=[{quoted}]"]
    run(_compare, "compare")


def _compare(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "runs"):
        raise ConfigError("runs: must be given, as python scripts/compare.py outputs/runs/ONE outputs/runs/OTHER")
    from lithydra.compare import compare

    set_up_logging()
    compare(config)


def main_reproduce_run() -> NoReturn:
    """`python scripts/reproduce_run.py`."""
    run(_reproduce_run, "reproduce_run")


def _reproduce_run(config: DictConfig) -> None:
    check_verb(config, REPRODUCE_RUN)
    from lithydra.reproduce_run import reproduce_run

    set_up_logging()
    reproduce_run(config)


def main_explain() -> NoReturn:
    """`python scripts/explain.py`."""
    run(_explain, "explain")


def _explain(config: DictConfig) -> None:
    check_verb(config, EXPLAIN)
    require_extra("explain", "captum")
    from lithydra.explain import explain

    set_up_logging()
    explain(config)


def main_serve() -> NoReturn:
    """`python scripts/serve.py`."""
    run(_serve, "serve")


def _serve(config: DictConfig) -> None:
    check_verb(config, SERVE)
    require_extra("serve", "gradio")
    from lithydra.serve import serve

    set_up_logging()
    serve(config)
