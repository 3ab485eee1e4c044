"""A run's config as plain values: how it is stored, read by dotted keys, and trained from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lithydra.overrides import nodes
from lithydra.run.trust import refuse_places, trusted

RUN_MARK = "<the run's directory>"

# Settings that have their value from another one, while they have it.
FOLLOWS = {
    "lr": ("optimizer.lr", "scheduler.max_lr"),
    "seed": ("data.seed",),
    "monitor.metric": ("callbacks.early_stopping.monitor",),
    "monitor.mode": ("callbacks.early_stopping.mode", "scheduler.mode"),
    "paths.data": ("data.dir",),
}


LISTS = ("augmentation", "metrics", "optimizer_groups", "regularizer")


def frozen(config: DictConfig) -> dict[str, Any]:
    """`config` resolved and plain. What is made of the run directory's name stays `${run}`, so that it can be moved.

    Whom a command trusts is not stored: it holds for that command only.
    """
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    OmegaConf.set_readonly(copy, False)
    copy.run = RUN_MARK
    plain: dict[str, Any] = OmegaConf.to_container(copy, resolve=True)  # pyright: ignore[reportAssignmentType]
    return _with_run_named(plain) | {"run": None, "resume": None, "resume_anyway": False, "trust": []}


def _with_run_named(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _with_run_named(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_run_named(value) for value in node]
    return node.replace(RUN_MARK, "${run}") if isinstance(node, str) else node


def trainable(stored: Any, where: str, given: dict[str, Any], command: DictConfig) -> DictConfig:
    """A run's stored config as one to train from: the code and the places that it names are the person's own.

    Args:
        given: The config that the command line gives by itself, plain.
        command: The same, with `trust` and `paths`.

    Raises:
        ConfigError: It names other code, or would write elsewhere than in its run directory.
    """
    config = trusted(stored, where, command.trust, given)
    refuse_places(stored, where, given, command.paths.outputs)
    folder = select(config, "data.dir")
    if folder not in (None, select(given, "data.dir")):
        prepared = Path(str(folder)) / f"{config.data.get('name')}.npz"
        if not prepared.is_file():  # it is made where the person has theirs
            config.data.dir = command.paths.data
    return config


def several(config: Any) -> dict[str, str]:
    """Of the groups that hold several parts, their names: Hydra tells no choice of a list."""
    return {group: ",".join(config[group]) or "none" for group in LISTS if group in config}


def select(config: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return None
        config = config[part]
    return config


def flatten(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of a nested config; lists are values, and so are empty nodes."""
    plain: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return [
        (key, value)
        for key, value in nodes(plain, f"{prefix}." if prefix else "")
        if value == {} or not isinstance(value, dict)
    ]
