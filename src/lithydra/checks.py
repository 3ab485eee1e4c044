"""Everything that can be refused before torch is imported.

Each setting has one rule: what it may be. All problems of a config are collected and raised once.
"""

import fnmatch
from collections.abc import Container, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lithydra.combinations import COMBINATIONS
from lithydra.errors import ConfigError, nearest
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
    # What starts processes as copies of this one (ddp_spawn, ddp_fork) cannot pass a run on to them.
    "trainer.strategy": Choice(("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")),
    "trainer.accelerator": Choice(("auto", "cpu", "gpu", "cuda", "mps", "tpu")),
    "trainer.deterministic": Choice((True, False, "warn")),
    "trainer.enable_model_summary": FLAG,
    "trainer.min_epochs": optional(COUNT),
    "trainer.min_steps": optional(COUNT),
    "trainer.limit_*_batches": AnyOf((NULL, COUNT, Number(above=0, most=1))),
    "trainer.check_val_every_n_epoch": COUNT,
    "trainer.fast_dev_run": AnyOf((FLAG, COUNT)),
    "trainer.sync_batchnorm": FLAG,
    "trainer.benchmark": optional(FLAG),
    "trainer.inference_mode": FLAG,
    "trainer.detect_anomaly": FLAG,
    "trainer.profiler": Choice((None, "simple", "advanced", "pytorch")),
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
