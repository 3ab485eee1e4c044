"""Weights that are averaged over training, and evaluated in place of those that are trained.

An average holds a second net, in the checkpoint beside the first. It is updated after each optimizer step, by numbers
that are functions of the step alone, so that a resumed run goes on bit for bit.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

EVALUATED_AT_ONCE = 1000  # training images, of which averaged weights need statistics

Batches = Callable[[], Iterator[Tensor]]  # normalized training images (B, C, H, W)


class Average(nn.Module):
    """A second net beside the trained one.

    A subclass implements `update`, called after each optimizer step, and may prepare for an evaluation.
    """

    net: nn.Module

    def start(self, net: nn.Module) -> None:
        """Begin at `net`, before the first step."""
        self.net = copy.deepcopy(net).requires_grad_(False)

    def update(self, net: nn.Module, step: int, num_steps: int) -> None:
        """Take in the weights after optimizer step `step`, from 1, of a run of `num_steps`."""
        raise NotImplementedError

    def before_evaluation(self, net: nn.Module, step: int, num_steps: int, batches: Batches) -> None:
        """Make the second net one to evaluate; by default BatchNorm's statistics are those of the trained net."""
        with torch.no_grad():
            for mine, its in zip(self.net.buffers(), net.buffers(), strict=True):
                mine.copy_(its)

    @torch.no_grad()
    def move_to(self, net: nn.Module, weight: float) -> None:
        """Go this part of the way, 0 to 1, from the averaged parameters to those of `net`."""
        mine: list[Tensor] = [*self.net.parameters()]
        its = [p.detach() for p in net.parameters()]
        torch._foreach_lerp_(mine, its, weight)  # pyright: ignore[reportPrivateImportUsage]


class EMA(Average):
    """Exponential moving average of the weights, and of BatchNorm's statistics.

    Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; with the warm-up of TensorFlow's
    ExponentialMovingAverage, min(decay, (1 + step) / (10 + step)).

    Args:
        decay: Weight of what was before, at each optimizer step; 0 to below 1.
        warmup: Smaller decay at the beginning, where the weights still change much.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, net: nn.Module, step: int, num_steps: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        self.move_to(net, 1 - decay)
        for mine, its in zip(self.net.buffers(), net.buffers(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(its, 1 - decay)
            else:
                mine.copy_(its)

    def before_evaluation(self, net: nn.Module, step: int, num_steps: int, batches: Batches) -> None:
        """The statistics are averaged already."""


class SWA(Average):
    """The mean of the weights after each step from a part of the run on; BatchNorm's statistics are measured anew.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018, algorithm 1.

    Args:
        start: Part of the run before the first weights that count, 0 to below 1.
        num_images: Training images, in their own order and without augmentation, that the statistics are of.
    """

    def __init__(self, start: float = 0.75, num_images: int = 10_000) -> None:
        super().__init__()
        self.start_at, self.num_images = start, num_images

    def update(self, net: nn.Module, step: int, num_steps: int) -> None:
        count = step - int(self.start_at * num_steps)  # of weights, with these
        if count > 0:
            self.move_to(net, 1 / count)

    def before_evaluation(self, net: nn.Module, step: int, num_steps: int, batches: Batches) -> None:
        super().before_evaluation(net, step, num_steps, batches)
        if step <= int(self.start_at * num_steps):  # nothing is averaged yet
            self.move_to(net, 1.0)
        elif norms := [m for m in self.net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]:
            self._measure(norms, batches)

    @torch.no_grad()
    def _measure(self, norms: list[_BatchNorm], batches: Batches) -> None:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        seen = 0
        for images in batches():
            self.net(images)
            seen += len(images)
            if seen >= self.num_images:
                break
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


class Lookahead(Average):
    """Slow weights that go a part of the way to the trained ones every few steps, which then go on from there.

    Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", 2019, algorithm 1.

    Args:
        steps: Optimizer steps between two, k.
        alpha: Part of the way, above 0, up to 1.
    """

    def __init__(self, steps: int = 5, alpha: float = 0.5) -> None:
        super().__init__()
        self.steps, self.alpha = steps, alpha

    @torch.no_grad()
    def update(self, net: nn.Module, step: int, num_steps: int) -> None:
        if step % self.steps == 0:
            self.move_to(net, self.alpha)
            for mine, its in zip(self.net.parameters(), net.parameters(), strict=True):
                its.copy_(mine)


class ScheduleFree(Average):
    """Steps from where a running mean pulls, so that a constant lr does what a schedule would.

    Defazio et al., "The road less scheduled", 2024, equations 1 to 3. The gradient is taken at y, between z, which the
    optimizer moves, and x, the mean of all z, which is evaluated. Weight decay is that of y.

    Args:
        momentum: Part of the way from z to x where y lies, 0 to below 1. It takes the place of the optimizer's own.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum

    def start(self, net: nn.Module) -> None:
        super().start(net)
        self.z = copy.deepcopy(self.net)

    @torch.no_grad()
    def update(self, net: nn.Module, step: int, num_steps: int) -> None:
        for x, y, z in zip(self.net.parameters(), net.parameters(), self.z.parameters(), strict=True):
            z.add_(y - z.lerp(x, self.momentum))  # what the optimizer has added
            x.lerp_(z, 1 / step)
            y.copy_(z.lerp(x, self.momentum))


class KeepAverage(L.Callback):
    """Has the module's average take in each optimizer step, and be ready where it is evaluated or saved."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        steps = math.ceil(data.num_training_batches / module.accumulate_grad_batches) * (trainer.max_epochs or 1)
        self.num_steps = steps if trainer.max_steps < 0 else min(steps, trainer.max_steps)
        self.ready_at = -1  # the step

    def on_optimizer_step(self, trainer: L.Trainer, module: Any) -> None:
        module.average.update(module.net, trainer.global_step, self.num_steps)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._make_ready(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._make_ready(trainer, pl_module)

    def _make_ready(self, trainer: L.Trainer, module: Any) -> None:
        if self.ready_at == (step := trainer.global_step):
            return
        self.ready_at = step
        split: Any = trainer.datamodule.train  # pyright: ignore[reportAttributeAccessIssue]
        positions = torch.arange(len(split), device=split.indices.device).split(EVALUATED_AT_ONCE)

        def batches() -> Iterator[Tensor]:
            for images, _ in split.batches(positions):
                yield module.normalization(images.to(module.device))

        module.average.before_evaluation(module.net, step, self.num_steps, batches)
