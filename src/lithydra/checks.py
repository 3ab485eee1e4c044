"""Everything that can be refused before torch is imported.

Each setting has one rule: what it may be. All problems of a config are collected and raised once.
"""

import fnmatch
import os
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lithydra.errors import ConfigError, nearest
from lithydra.init_checks import INIT_COMBINATIONS
from lithydra.rules import (
    COUNT,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    NULL,
    POSITIVE,
    PROBABILITY,
    SEED,
    AnyOf,
    Choice,
    DirectoryName,
    ListOf,
    Number,
    Text,
    optional,
)
from lithydra.unread import unread

METRICS = ("val/acc", "val/loss", "train/acc", "train/loss")

# By key, `*` for any name. A setting without a rule is checked by what it is passed to.
RULES: dict[str, Any] = {
    "seed": SEED,
    "paths.*": Text(),
    "lr": POSITIVE,
    "compile": FLAG,
    "test": FLAG,
    "resume_anyway": FLAG,
    "run": optional(Text()),
    "resume": optional(Text()),
    "monitor.metric": Choice(METRICS),
    "monitor.mode": Choice(("min", "max")),
    "checkpoint.every_n_steps": optional(COUNT),
    "checkpoint.every_seconds": optional(POSITIVE),
    "data.batch_size": COUNT,
    "data.eval_batch_size": COUNT,
    "data.val_fraction": FRACTION,
    "data.num_folds": optional(Number(least=2, whole=True)),
    "data.fold": Number(least=0, whole=True),
    "data.limit": AnyOf((NULL, COUNT, Number(above=0, below=1))),
    "data.classes": optional(ListOf(Number(least=0, whole=True), min_length=2)),
    "data.image_size": optional(COUNT),
    "data.seed": SEED,
    "data.num_workers": Number(least=0, whole=True),
    "data.channels": Choice((1, 3)),
    "data.test_fraction": Number(above=0, below=1),
    "data.memory_limit_gib": NOT_NEGATIVE,
    "data.dir": Text(),
    "data.path": optional(Text()),
    "model.hidden": ListOf(COUNT),
    "model.channels": ListOf(COUNT, min_length=1),
    "model.dropout": FRACTION,
    "model.batch_norm": FLAG,
    "model.batch_norm_eps": POSITIVE,
    "model.batch_norm_momentum": Number(above=0, most=1),
    "model.width": COUNT,
    "model.kernel_size": COUNT,
    "loss.label_smoothing": FRACTION,
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": FRACTION,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.nesterov": FLAG,
    "optimizer.eps": POSITIVE,
    "optimizer.betas": ListOf(FRACTION, min_length=2, max_length=2),
    "optimizer.amsgrad": FLAG,
    "optimizer.rho": FRACTION,
    "optimizer.alpha": FRACTION,
    "optimizer.centered": FLAG,
    "optimizer.lr_decay": NOT_NEGATIVE,
    "optimizer.initial_accumulator_value": NOT_NEGATIVE,
    "optimizer.line_search_fn": Choice((None, "strong_wolfe")),
    "optimizer.tolerance_grad": NOT_NEGATIVE,
    "optimizer.tolerance_change": NOT_NEGATIVE,
    "optimizer.max_iter": COUNT,
    "optimizer.history_size": COUNT,
    "scheduler.interval": Choice(("step", "epoch")),
    "scheduler.mode": Choice(("min", "max")),
    "scheduler.anneal_strategy": Choice(("cos", "linear")),
    "scheduler.cycle_momentum": FLAG,
    "scheduler.gamma": Number(above=0, most=1),
    "scheduler.factor": Number(above=0, below=1),
    "scheduler.patience": Number(least=0, whole=True),
    "scheduler.cooldown": Number(least=0, whole=True),
    "scheduler.threshold": NOT_NEGATIVE,
    "scheduler.threshold_mode": Choice(("rel", "abs")),
    "scheduler.min_lr": NOT_NEGATIVE,
    "scheduler.eta_min": NOT_NEGATIVE,
    "scheduler.step_size": COUNT,
    "scheduler.milestones": ListOf(COUNT, min_length=1),
    "scheduler.T_max": AnyOf((COUNT, Choice(("total",)))),
    "scheduler.total_steps": AnyOf((COUNT, Choice(("total",)))),
    "scheduler.warmup_fraction": FRACTION,
    "scheduler.final_lr_factor": PROBABILITY,
    "scheduler.pct_start": Number(above=0, below=1),
    "scheduler.max_lr": POSITIVE,
    "scheduler.div_factor": POSITIVE,
    "scheduler.final_div_factor": POSITIVE,
    "regularizer.*.weight": NOT_NEGATIVE,
    "callbacks.early_stopping.monitor": Choice(METRICS),
    "callbacks.early_stopping.mode": Choice(("min", "max")),
    "callbacks.early_stopping.patience": Number(least=0, whole=True),
    "callbacks.early_stopping.min_delta": NOT_NEGATIVE,
    "callbacks.progress_bar.refresh_seconds": POSITIVE,
    "callbacks.*_histograms.bins": COUNT,
    "callbacks.*_histograms.num_images": COUNT,
    "accelerator.channels_last": FLAG,
    "accelerator.matmul_precision": Choice(("highest", "high", "medium")),
    "trainer.max_epochs": COUNT,
    "trainer.max_steps": AnyOf((COUNT, Choice((-1,)))),
    "trainer.precision": Choice(
        ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true", "32", "bf16", "16", "64", 32, 16, 64)
    ),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.gradient_clip_algorithm": Choice(("norm", "value")),
    "trainer.accumulate_grad_batches": COUNT,
    "trainer.steps_per_execution": AnyOf((COUNT, Choice(("auto",)))),
    "trainer.log_every_n_steps": COUNT,
    "trainer.devices": AnyOf((COUNT, Choice((-1, "auto")), ListOf(Number(least=0, whole=True), min_length=1))),
    "trainer.num_nodes": COUNT,
    "trainer.accelerator": Choice(("auto", "cpu", "gpu", "cuda", "mps", "tpu")),
    "trainer.deterministic": Choice((True, False, "warn")),
    "trainer.enable_model_summary": FLAG,
    "trainer.limit_train_batches": AnyOf((COUNT, Number(above=0, most=1))),
    "trainer.limit_val_batches": AnyOf((COUNT, Number(above=0, most=1))),
    "trainer.limit_test_batches": AnyOf((COUNT, Number(above=0, most=1))),
    "sweep.name": optional(DirectoryName()),
    "sweep.n_jobs": AnyOf((COUNT, Choice(("auto",)))),
    "sweep.on_error": Choice(("continue", "stop")),
    "sweep.retry": FLAG,
    "sweep.fresh": FLAG,
    "init.from": optional(Text()),
    "init.freeze": AnyOf((Choice(("none", "backbone")), ListOf(Text(), min_length=1))),
    "init.head": Choice(("auto", "keep", "replace")),
    "init.backbone_lr_factor": POSITIVE,
    "lr_find.num_steps": Number(least=20, whole=True),
    "lr_find.min_lr": POSITIVE,
    "lr_find.max_lr": POSITIVE,
}

ROOT_KEYS = (
    "data",
    "normalization",
    "augmentation",
    "model",
    "loss",
    "optimizer",
    "scheduler",
    "regularizer",
    "trainer",
    "accelerator",
    "callbacks",
    "logger",
    "paths",
    "seed",
    "lr",
    "monitor",
    "checkpoint",
    "compile",
    "run",
    "resume",
    "resume_anyway",
    "test",
    "sweep",
    "lr_find",
    "init",
    "study",
    "experiment",
)


def check(config: DictConfig) -> None:
    """Raise one ConfigError with every problem of a composed config, a line each; return where there is none."""
    plain = resolved(config)
    written: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportAssignmentType]
    # A value that comes from another key is refused there, once.
    own = {key for key, value in leaves(written) if "${" not in str(value)}
    problems = [*_unknown_root_keys(plain), *broken_rules(plain, RULES, own)]
    problems = problems or [problem for combination in COMBINATIONS for problem in combination(plain)]
    if problems:
        raise ConfigError("\n".join(problems))


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values. Raises ConfigError for one that is missing or refers to nothing."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportReturnType]
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _unknown_root_keys(config: dict[str, Any]) -> Iterator[str]:
    """A setting that `+` has put at the top, where nothing reads it."""
    for key in config.keys() - set(ROOT_KEYS):
        inside = [f"{group}.{key}" for group, node in config.items() if isinstance(node, dict) and key in node]
        hint = f" Did you mean {inside[0]}?" if inside else nearest(key, ROOT_KEYS)
        yield f"{key}={config[key]}: nothing reads a setting of this name at the top level.{hint}"


def broken_rules(config: dict[str, Any], rules: dict[str, Any], only: Container[str] | None = None) -> Iterator[str]:
    """A line for each setting, of those in `only`, that is not what its rule allows."""
    for key, value in leaves(config):
        if only is not None and key not in only:
            continue
        rule = rules.get(key) or next((r for pattern, r in rules.items() if fnmatch.fnmatchcase(key, pattern)), None)
        if rule is not None and value not in rule:
            shown = f"'{value}' (text)" if isinstance(value, str) and isinstance(rule, Number) else _shown(value)
            parts = rule.rules if isinstance(rule, AnyOf) else (rule,)
            options = [o for r in parts for o in getattr(r, "options", ()) if isinstance(o, str)]
            yield f"{key}={shown}: must be {rule}.{nearest(str(value), options)}"


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# Combinations: each yields what is wrong with a config whose settings are all well formed.


def _monitor(config: dict[str, Any]) -> Iterator[str]:
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    right = "max" if metric.endswith("/acc") else "min"
    if mode != right:
        yield f"monitor.mode={mode}: {metric} is better the {'higher' if right == 'max' else 'lower'}; use {right}"
    stopping = config["callbacks"].get("early_stopping")
    if stopping and stopping["mode"] != ("max" if stopping["monitor"].endswith("/acc") else "min"):
        yield f"callbacks.early_stopping.mode={stopping['mode']}: the wrong way round for {stopping['monitor']}"
    plateau = "plateau" in str(config["scheduler"].get("_target_", "")).lower()
    if plateau and config["scheduler"].get("mode") != right:
        yield f"scheduler.mode={config['scheduler'].get('mode')}: the wrong way round for monitor.metric={metric}"
    if plateau and config["scheduler"]["interval"] != "epoch":
        yield "scheduler.interval=step: a plateau is looked for once an epoch"
    if metric.startswith("val/") and not _validates(config):
        if stopping:
            yield f"callbacks=early_stopping: watches {metric}, and data.val_fraction=0 leaves no validation images"
        if plateau:
            yield f"scheduler=plateau: watches {metric}, and data.val_fraction=0 leaves no validation images"


def _validates(config: dict[str, Any]) -> bool:
    return config["data"].get("val_fraction", 0) > 0 or bool(config["data"].get("num_folds"))


def _folds(config: dict[str, Any]) -> Iterator[str]:
    folds, fold = config["data"].get("num_folds"), config["data"].get("fold", 0)
    if folds and fold >= folds:
        yield f"data.fold={fold}: data.num_folds={folds} has folds 0 to {folds - 1}"
    if not folds and fold:
        yield f"data.fold={fold}: needs data.num_folds"


def _classes(config: dict[str, Any]) -> Iterator[str]:
    classes = config["data"].get("classes")
    if classes and len(set(classes)) < len(classes):
        yield f"data.classes={classes}: names a class twice"


def _lbfgs(config: dict[str, Any]) -> Iterator[str]:
    if not str(config["optimizer"]["_target_"]).endswith("LBFGS"):
        return
    trainer = config["trainer"]
    if trainer["precision"] not in ("32-true", "64-true", "32", "64", 32, 64):
        yield f"optimizer=lbfgs: needs full precision, and trainer.precision={trainer['precision']}"
    if trainer["gradient_clip_val"] is not None:
        yield "optimizer=lbfgs: its line search sees no clipped gradient; leave trainer.gradient_clip_val=null"
    if trainer["accumulate_grad_batches"] > 1:
        yield "optimizer=lbfgs: evaluates each batch anew; leave trainer.accumulate_grad_batches=1"


def _nesterov(config: dict[str, Any]) -> Iterator[str]:
    if config["optimizer"].get("nesterov") and not config["optimizer"].get("momentum"):
        yield "optimizer.nesterov=true: needs optimizer.momentum above 0"


def _momentum_cycle(config: dict[str, Any]) -> Iterator[str]:
    has_momentum = {"momentum", "betas"} & config["optimizer"].keys()
    if config["scheduler"].get("cycle_momentum") and not has_momentum:
        yield "scheduler.cycle_momentum=true: the optimizer has no momentum to cycle"


def _device(config: dict[str, Any]) -> Iterator[str]:
    trainer = config["trainer"]
    if trainer["accelerator"] in ("gpu", "cuda") and not gpu_device_exists():
        yield "accelerator=gpu: this machine has no GPU; accelerator=cpu or accelerator=auto trains without one"
    if str(trainer["precision"]) in ("16", "16-mixed") and (
        trainer["accelerator"] == "cpu" or (trainer["accelerator"] == "auto" and not gpu_device_exists())
    ):
        yield f"trainer.precision={trainer['precision']}: needs a GPU; on a CPU use bf16-mixed or 32-true"


def gpu_device_exists() -> bool:
    """Whether the kernel knows a GPU: Nvidia, AMD, or Windows' through WSL. Torch has the last word, later."""
    return (
        any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")) or not Path("/dev").exists()
    )


def _directories(config: dict[str, Any]) -> Iterator[str]:
    if config["run"] and config["resume"]:
        yield f"run={config['run']}: resume={config['resume']} names the run directory already"
    first_process = os.environ.get("LOCAL_RANK", "0") == "0"  # it makes the directory that the others share
    if config["run"] and first_process and (Path(config["run"]) / "status.json").exists():
        yield f"run={config['run']}: holds a run already; resume={config['run']} goes on with it"
    told: set[Path] = set()  # runs and sweeps lie below the same file more often than not
    for key in ("runs", "sweeps", "data"):
        path = Path(config["paths"][key])
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if existing in told:
            continue
        if not existing.is_dir():
            told.add(existing)
            yield f"paths.{key}={path}: {existing} is a file, not a directory"
        elif key == "runs" and not config["run"] and not config["resume"] and not os.access(existing, os.W_OK):
            yield f"paths.{key}={path}: cannot be written"


def _own_data(config: dict[str, Any]) -> Iterator[str]:
    """The files of data=npz and data=image_folder; what is in them is looked at later."""
    target, path = str(config["data"].get("_target_", "")).rpartition(".")[2], config["data"].get("path")
    if target == "Npz" and path is None:
        yield "data.path=null: data=npz needs data.path=FILE.npz with x_train y_train x_test y_test"
    elif target == "ImageFolder" and path is None:
        yield "data.path=null: data=image_folder needs data.path=FOLDER with a folder for each class"
    elif target == "Npz" and not Path(str(path)).expanduser().is_file():
        yield f"data.path={path}: no such file; data=npz needs data.path=FILE.npz"
    elif target == "ImageFolder" and not Path(str(path)).expanduser().is_dir():
        yield f"data.path={path}: no such folder"


def _lr_range(config: dict[str, Any]) -> Iterator[str]:
    bounds = config.get("lr_find")
    if bounds and bounds["max_lr"] <= bounds["min_lr"]:
        yield f"lr_find.max_lr={bounds['max_lr']}: must be above lr_find.min_lr={bounds['min_lr']}"


COMBINATIONS: tuple[Callable[[dict[str, Any]], Iterator[str]], ...] = (
    unread,
    _monitor,
    _folds,
    _classes,
    _lbfgs,
    _nesterov,
    _momentum_cycle,
    _device,
    _directories,
    _own_data,
    *INIT_COMBINATIONS,
    _lr_range,
)
