"""Stopping a training that diverges, before it touches the weights."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lithydra.errors import DivergedError
from lithydra.resume import random_state, set_random_state

if TYPE_CHECKING:
    from lithydra.classifier import GradientClassifier

ADVICE = "A smaller lr, or trainer.gradient_clip_val=1.0, may help."


class NotFiniteError(Exception):
    """A loss or a weight became infinite or NaN somewhere in a chunk of steps."""


class Snapshot:
    """All that training steps change, copied on the device: weights, optimizer, scheduler, sums, random state."""

    def __init__(self, module: "GradientClassifier", optimizer: Optimizer, scheduler: Any) -> None:
        self.module, self.optimizer, self.scheduler = module, optimizer, scheduler
        self.global_step = module.global_step
        self._tensors = [*module.trained, *module.net.buffers()]
        self._values = [t.detach().clone() for t in self._tensors]
        self._gradients = [None if p.grad is None else p.grad.clone() for p in module.trained]
        self._optimizer_state = copy.deepcopy(optimizer.state_dict())
        self._scheduler_state = copy.deepcopy(scheduler.state_dict()) if scheduler else None
        self._sums = copy.copy(module.train_sums)
        self._random_state = random_state()

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        for parameter, gradient in zip(self.module.trained, self._gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.load_state_dict(self._optimizer_state)
        if self.scheduler:
            self.scheduler.load_state_dict(self._scheduler_state)
        self.module.train_sums = self._sums
        set_random_state(self._random_state)


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value is infinite or NaN; waits for the device once."""
    largest = torch._foreach_norm([t.detach() for t in tensors], float("inf"))  # pyright: ignore[reportPrivateImportUsage]
    return bool(torch.stack([value.float() for value in largest]).isfinite().all())


def refuse_divergence(loss: Tensor, module: "GradientClassifier", step: int, lr: float) -> None:
    """Raise DivergedError, naming step, lr and parameter, if the loss or a gradient is not finite."""
    gradients = [p.grad for p in module.trained if p.grad is not None]
    if bool(loss.isfinite()) and all_finite(gradients):
        return
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    broken = next((name for name, gradient in named if not bool(gradient.isfinite().all())), None)
    where = f"the gradient of {broken}" if broken else "the loss"
    raise DivergedError(
        f"Diverged at step {step}: {where} is not finite (loss {loss.item():g}, lr {lr:g}). The weights are those of "
        f"step {step - 1}. {ADVICE}"
    )


def refuse_broken_weights(module: "GradientClassifier", step: int, lr: float) -> None:
    """Raise DivergedError if a finite gradient was enough to break a weight: a step too long for the number format."""
    if all_finite(module.trained):
        return
    broken = next(name for name, p in module.named_parameters() if not bool(p.isfinite().all()))
    raise DivergedError(f"Diverged at step {step}: it made {broken} infinite (lr {lr:g}). {ADVICE}")
