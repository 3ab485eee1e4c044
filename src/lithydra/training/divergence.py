"""Stopping a training that diverges: the first step that shows it is named, and nothing that is not finite is saved."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lithydra.errors import DivergedError

ADVICE = "A smaller lr, or trainer.gradient_clip_val=1.0, may help."


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether no value is infinite or NaN; waits for the device once."""
    norms = torch._foreach_norm([t.detach() for t in tensors])  # pyright: ignore[reportPrivateImportUsage]
    if bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return True
    # The sum of squares of finite values may overflow: the slower test decides.
    return all(bool(t.isfinite().all()) for t in tensors)


def first_not_finite(losses: Sequence[Tensor]) -> int:
    """Position of the first loss that is infinite or NaN; where there is none, the number of losses."""
    finite = torch.stack([loss.float() for loss in losses]).isfinite().tolist()
    return finite.index(False) if False in finite else len(finite)


def loss_diverged(step: int, lr: float, saved_step: int | None) -> DivergedError:
    """The error of a training loss that is infinite or NaN. `saved_step` is that of last.ckpt, None without one."""
    return DivergedError(
        f"Diverged at step {step}: the loss is not finite (lr {lr:g}). {_on_disk(saved_step)} {ADVICE}"
    )


def state_diverged(named: Iterable[tuple[str, Tensor]], step: int, lr: float, saved_step: int | None) -> DivergedError:
    """The error of a weight, or a statistic of BatchNorm, that is infinite or NaN though no loss was."""
    broken = next((name for name, value in named if not bool(value.isfinite().all())), "a value of another process")
    return DivergedError(
        f"Diverged by step {step}: {broken} is not finite (lr {lr:g}). {_on_disk(saved_step)} {ADVICE}"
    )


def refuse_broken_evaluation(values: Mapping[str, float], step: int) -> None:
    """Raise DivergedError if a loss is not finite: its accuracy is then that of an argmax of NaN."""
    for name, value in values.items():
        if name.endswith("/loss") and not math.isfinite(value):
            raise DivergedError(f"Diverged by step {step}: {name} is {value}. {ADVICE}")


def _on_disk(saved_step: int | None) -> str:
    return "No checkpoint was saved before." if saved_step is None else f"last.ckpt is of step {saved_step}."
