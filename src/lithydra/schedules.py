"""Learning rate schedules that torch does not have. All take the optimizer first, as torch's do."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.05, final_lr_factor: float = 0.0
) -> LambdaLR:
    """Linear warm-up to lr, then half a cosine down to `final_lr_factor` · lr.

    Loshchilov & Hutter, "SGDR", 2017, equation 5, without restarts; warm-up of Goyal et al., "Accurate, large minibatch
    SGD", 2017, section 2.2.

    Args:
        optimizer: its learning rate is the peak; each parameter group keeps its own.
        total_steps: length of the run in scheduler steps; the rate stays at its final value after that.
        warmup_fraction: part of the run before the peak, in [0, 1].
        final_lr_factor: final rate as a part of the peak, in [0, 1].
    """
    warmup_steps = round(warmup_fraction * total_steps)
    decay_steps = max(1, total_steps - warmup_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)  # not 0 at step 0: that step would be lost
        progress = min(1.0, (step - warmup_steps) / decay_steps)
        return final_lr_factor + (1 - final_lr_factor) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)
