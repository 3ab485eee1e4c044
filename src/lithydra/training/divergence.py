"""Stopping a training that diverges, before it touches the weights."""

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lithydra.errors import DivergedError
from lithydra.training.position import random_state, set_random_state

if TYPE_CHECKING:
    from lithydra.training.engine import GradientClassifier

ADVICE = "A smaller lr, or trainer.gradient_clip_val=1.0, may help."


class NotFiniteError(Exception):
    """A loss or a weight became infinite or NaN somewhere in a chunk of steps."""


class Snapshot:
    """All that training steps change, copied on the device: weights, optimizer, scheduler, sums, random state.

    Taken once a chunk into buffers that are kept, since in small nets allocating them costs more than copying.
    """

    def __init__(self, module: "GradientClassifier", optimizer: Optimizer, scheduler: Any, scaler: Any) -> None:
        self.module, self.optimizer, self.scheduler, self.scaler = module, optimizer, scheduler, scaler
        self.global_step = 0
        self._tensors: list[Tensor] = []
        self._copies: list[Tensor] = []

    @torch.no_grad()
    def take(self) -> None:
        module = self.module
        tensors = [p.detach() for p in module.trained] + list(module.net.buffers())
        states = self.optimizer.state.values()
        tensors += [value for state in states for value in state.values() if isinstance(value, Tensor)]
        if [t.shape for t in tensors] != [t.shape for t in self._copies]:  # the optimizer makes its state as it steps
            self._copies = [t.clone() for t in tensors]
        else:
            torch._foreach_copy_(self._copies, tensors)  # pyright: ignore[reportPrivateImportUsage]
        self._tensors = tensors
        self._states = {p: {k: _unshared(v) for k, v in state.items()} for p, state in self.optimizer.state.items()}
        self._lrs = [dict(group, params=None) for group in self.optimizer.param_groups]
        self._gradients = [None if p.grad is None else p.grad.clone() for p in module.trained]
        self._scheduler_state = dict(self.scheduler.state_dict()) if self.scheduler else None
        self._sums = copy.copy(module.train_sums)
        self._random_state = random_state()
        self._scaler_state = self.scaler.state_dict() if self.scaler else None
        self.global_step = module.global_step

    @torch.no_grad()
    def restore(self) -> None:
        torch._foreach_copy_(self._tensors, self._copies)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.state.clear()
        self.optimizer.state.update(self._states)  # the very tensors: LBFGS puts others in their place
        for group, saved in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        for parameter, gradient in zip(self.module.trained, self._gradients, strict=True):
            parameter.grad = gradient
        if self.scheduler:
            self.scheduler.load_state_dict(self._scheduler_state)
        if self.scaler:
            self.scaler.load_state_dict(self._scaler_state)
        self.module.train_sums = self._sums
        set_random_state(self._random_state)


def _unshared(value: Any) -> Any:
    """LBFGS adds to and drops from its lists of tensors; the tensors in them stay as they are."""
    return list(value) if isinstance(value, list) else value


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value is infinite or NaN; waits for the device once."""
    norms = torch._foreach_norm([t.detach() for t in tensors])  # pyright: ignore[reportPrivateImportUsage]
    if bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return True
    # The sum of squares of finite values may overflow: the slower test decides.
    return all(bool(t.isfinite().all()) for t in tensors)


def refuse_divergence(loss: Tensor, module: "GradientClassifier", step: int, lr: float, *, scaled: bool) -> None:
    """Raise DivergedError, naming step, lr and parameter, if the loss or a gradient is not finite.

    Args:
        scaled: A scaler multiplies the loss: it expects infinite gradients, and skips their step by itself.
    """
    gradients = [p.grad for p in module.trained if p.grad is not None]
    if module.agreed(bool(loss.isfinite()) and (scaled or all_finite(gradients))):
        return
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    broken = next((name for name, gradient in named if not bool(gradient.isfinite().all())), None)
    where = f"the gradient of {broken}" if broken else "the loss"
    raise DivergedError(
        f"Diverged at step {step}: {where} is not finite (loss {loss.item():g}, lr {lr:g}). The weights are those of "
        f"step {step - 1}. {ADVICE}"
    )


def refuse_broken_weights(module: "GradientClassifier", step: int, lr: float) -> None:
    """Raise DivergedError if a finite gradient was enough to break a weight, or a statistic of BatchNorm."""
    if module.agreed(all_finite(module.watched)):
        return
    named = [*module.named_parameters(), *module.net.named_buffers("net")]
    broken = next((name for name, value in named if not bool(value.isfinite().all())), "a value of another process")
    raise DivergedError(f"Diverged at step {step}: it made {broken} infinite (lr {lr:g}). {ADVICE}")


def refuse_broken_evaluation(values: dict[str, float], step: int) -> None:
    """Raise DivergedError if a loss is not finite: its accuracy is then that of an argmax of NaN."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(f"Diverged by step {step}: {name} is {value}. {ADVICE}")
