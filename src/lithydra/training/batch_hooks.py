"""Callbacks beside executions of many steps: which need every batch, and which cannot work here at all."""

import logging
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)

from lithydra.errors import ConfigError

log = logging.getLogger(__name__)

BATCH_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)

# Callbacks that change what the training loop itself decides.
UNSUPPORTED: dict[type[L.Callback], str] = {
    StochasticWeightAveraging: "adds an epoch and a schedule of its own; EMAWeightAveraging and WeightAveraging work",
    GradientAccumulationScheduler: "accumulation is constant; use trainer.accumulate_grad_batches",
    LearningRateFinder: "use scripts/lr_find.py",
    BatchSizeFinder: "use data.batch_size",
}

Callbacks = Mapping[str, Any]  # by dotted key, each a callback or the target that makes one


def batch_hook(callback: Any) -> str | None:
    """The first hook around a batch that a callback, or its class, overrides; None if it also has
    `on_optimizer_step`, which is called at every step.
    """
    if hasattr(callback, "on_optimizer_step"):
        return None
    return next((name for name in BATCH_HOOKS if _overrides(callback, name)), None)


def _overrides(callback: Any, name: str) -> bool:
    hook, default = getattr(callback, name, None), getattr(L.Callback, name)
    return hook is not None and getattr(hook, "__func__", hook) is not default


def refuse_unsupported(callbacks: Callbacks) -> None:
    """Raise ConfigError for a callback that cannot work with this training loop."""
    for name, callback in callbacks.items():
        made = callback if isinstance(callback, type) else type(callback)
        for unsupported, advice in UNSUPPORTED.items():
            if issubclass(made, unsupported):
                raise ConfigError(f"{name}: {unsupported.__name__} does not work here: {advice}")


def steps_beside(callbacks: Callbacks, steps: int, asked: int | str) -> int:
    """Steps an execution beside `callbacks`: `steps`, or 1 where one of them needs every batch.

    Args:
        asked: `trainer.steps_per_execution`.

    Raises:
        ConfigError: It asks for more than 1 beside such a callback.
    """
    refuse_unsupported(callbacks)
    needed = ((name, hook) for name, callback in callbacks.items() if (hook := batch_hook(callback)))
    name, hook = next(needed, (None, None))
    if steps == 1 or name is None:
        return steps
    if asked != "auto":
        raise ConfigError(
            f"trainer.steps_per_execution={asked}: {name} has {hook}, which is called once an execution; use auto or 1"
        )
    log.info("One step an execution: %s needs every batch (%s).", name, hook)
    return 1
