"""The config that a run goes on with: its own, and of the command line only what may change."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from lithydra.errors import ConfigError
from lithydra.run_dir import RunDir

# What may differ: how long to train, where, and what is shown or saved. Any prefix of a dotted key.
MAY_CHANGE = (
    "resume",
    "resume_anyway",
    "run",
    "test",
    "paths",
    "sweep",
    "logger",
    "callbacks.progress_bar",
    "callbacks.model_summary",
    "callbacks.report_to_trial",
    "callbacks.plots",
    "callbacks.parameter_histograms",
    "callbacks.activation_histograms",
    "callbacks.gradient_histograms",
    "checkpoint",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.steps_per_execution",
    "trainer.log_every_n_steps",
    "trainer.accelerator",
    "trainer.devices",
    "accelerator",
)

RUN_MARK = "<the run's directory>"


def resumed(run: RunDir, composed: DictConfig, overrides: list[str]) -> DictConfig:
    """The run's own config with the command line's changes.

    Args:
        composed: The config that the command line gives by itself; only keys that `overrides` name are read from it.
        overrides: The command line, as `group=choice` and `key=value`.

    Raises:
        ConfigError: The command line changes what would make it another run, and `resume_anyway` is not set.
    """
    stored = run.read_config()
    config = DictConfig(stored)
    plain: dict[str, Any] = OmegaConf.to_container(composed, resolve=True)  # pyright: ignore[reportAssignmentType]
    keys = [override.lstrip("+~").split("=")[0] for override in overrides]
    named = dict(item for key in keys for item in flatten(OmegaConf.select(DictConfig(plain), key), key))
    before = dict(flatten(stored))
    changes = {key: value for key, value in named.items() if before.get(key) != value}
    forbidden = {key: value for key, value in changes.items() if not _may_change(key)}
    if forbidden and not composed.resume_anyway:
        differences = "; ".join(f"{key} was {before.get(key)}, given {value}" for key, value in forbidden.items())
        raise ConfigError(f"resume={run.path}: another run: {differences}. resume_anyway=true takes the change")
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    _refuse_new_horizon(before, changes)
    _refuse_finished(run, config)
    return config


def frozen(config: DictConfig) -> dict[str, Any]:
    """`config` resolved and plain. What is made of the run directory's name stays `${run}`, so that it can be moved."""
    copy = config.copy()
    OmegaConf.set_struct(copy, False)
    OmegaConf.set_readonly(copy, False)
    copy.run = RUN_MARK
    plain: dict[str, Any] = OmegaConf.to_container(copy, resolve=True)  # pyright: ignore[reportAssignmentType]
    return _with_run_named(plain) | {"run": None, "resume": None}


def _with_run_named(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _with_run_named(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_run_named(value) for value in node]
    return node.replace(RUN_MARK, "${run}") if isinstance(node, str) else node


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_CHANGE)


def _refuse_new_horizon(before: dict[str, Any], changes: dict[str, Any]) -> None:
    """A schedule that was laid out over the run's length cannot grow with it."""
    planned = next((key for key, value in before.items() if key.startswith("scheduler.") and value == "total"), None)
    for key in ("trainer.max_epochs", "trainer.max_steps"):
        if planned and key in changes:
            raise ConfigError(f"{key}={changes[key]}: {planned} was laid out for {before[key]}; train anew instead")


def _refuse_finished(run: RunDir, config: DictConfig) -> None:
    status = run.read_status()
    epochs = status.get("epoch", 0)
    if status.get("state") == "finished" and epochs >= config.trainer.max_epochs:
        raise ConfigError(
            f"resume={run.path}: finished after {epochs} epochs; trainer.max_epochs={2 * epochs} would go on"
        )


def flatten(node: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of a nested config; lists are values."""
    if isinstance(node, (dict, DictConfig)):
        dot = f"{prefix}." if prefix else ""
        return [item for key, value in node.items() for item in flatten(value, f"{dot}{key}")]
    return [(prefix, OmegaConf.to_container(node) if OmegaConf.is_config(node) else node)]
