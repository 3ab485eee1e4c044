"""Learning-rate range test (Smith, 2017, "Cyclical learning rates for training neural networks", section 3.3)."""

import itertools
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
from omegaconf import DictConfig

from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch, TrainingLoader, TrainingOrder
from lithydra.errors import ConfigError, LithydraError
from lithydra.run import plots
from lithydra.run.style import SPLITS, style
from lithydra.training import build
from lithydra.training.engine import GradientClassifier
from lithydra.training.precision import settle_precision
from lithydra.training.trial import trial

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMOOTHING = 0.9  # weight of the losses before
TOO_HIGH = 4.0  # times the lowest smoothed loss: training has broken down
SKIPPED = 5  # first and last steps, where the smoothed loss says little


@dataclass(frozen=True)
class RangeTest:
    """Learning rate, loss and smoothed loss of each step, and the suggestion: where the smoothed loss falls fastest."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def suggestion(self) -> float | None:
        """None where the loss never falls."""
        last = len(self.lrs) - SKIPPED
        if last - SKIPPED < 2:
            return None
        slopes = np.gradient(self.smoothed[SKIPPED:last], np.log(self.lrs[SKIPPED:last]))
        steepest = int(slopes.argmin())
        return float(f"{self.lrs[SKIPPED + steepest]:.2g}") if slopes[steepest] < 0 else None


def lr_find(config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Train a copy for `lr_find.num_steps` steps while lr grows, draw the loss, and print the lr to take.

    Returns:
        It as `lr`, and the picture.

    Raises:
        ConfigError: The net learns without a gradient, or a module of one's own has its own step.
        LithydraError: The loss never falls.
    """
    if config.module:
        raise ConfigError(
            f"module={config.module._target_}: a module of one's own has its own step; lr_find cannot try it"
        )
    L.seed_everything(config.seed, verbose=False)
    data = build.data(config)
    module = build.classifier(config, data)
    if not isinstance(module, GradientClassifier):
        raise ConfigError("model: learns without a gradient, so it has no lr to find")
    settings = config.lr_find
    settle_precision(config, data, module, build.place(config))
    test = range_test(module, data, build.place(config), settings.min_lr, settings.max_lr, settings.num_steps)
    output = Path(config.paths.outputs) / "lr_find" / f"{data.name}_{type(module.net).__name__}.png"
    plots.save(picture(test), output)
    print(f"{len(test.lrs)} steps, lr {test.lrs[0]:.1e} to {test.lrs[-1]:.1e}, lowest loss {min(test.smoothed):.4f}")
    print(f"picture        {output}")
    if test.suggestion is None:
        raise LithydraError("the loss never falls: no lr to suggest. Look at the picture, or change lr_find.min_lr")
    kept = [override for override in overrides if not override.startswith(("lr=", "lr_find."))]
    print(f"suggestion     lr={test.suggestion:g}")
    print(f"train          {shlex.join(['python', 'train.py', *kept, f'lr={test.suggestion:g}'])}")
    return {"lr": test.suggestion, "picture": output}


def range_test(
    module: GradientClassifier, data: ImageDataModule, trainer: L.Trainer, min_lr: float, max_lr: float, num_steps: int
) -> RangeTest:
    """Train a copy of `module`, lr growing exponentially. Neither net nor data nor torch's random state change.

    The steps are those of a run: clipped, accumulated, and on the trainer's device in its precision.
    """
    with trial(module, data, trainer) as (copied, optimizer):
        assert isinstance(copied, GradientClassifier) and optimizer is not None
        lrs, losses, smoothed = [], [], []
        average = 0.0
        batches = _batches(data, copied.accumulate_grad_batches)
        for step in range(num_steps):
            lr = min_lr * (max_lr / min_lr) ** (step / max(1, num_steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_factor", 1.0)
            loss = _loss_of_a_step(copied, batches)
            if not math.isfinite(loss):
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            lrs.append(lr)
            losses.append(loss)
            smoothed.append(average / (1 - SMOOTHING ** (step + 1)))
            if smoothed[-1] > TOO_HIGH * min(smoothed):
                break
    return RangeTest(lrs, losses, smoothed)


def _loss_of_a_step(copied: GradientClassifier, batches: Iterator[TrainingBatch]) -> float:
    """Train on batches up to an optimizer step; returns their mean loss before it."""
    losses: list[float] = []
    for batch in batches:
        trained, updated = copied.train_on(batch)
        losses.append(float(trained.loss))
        if updated:
            break
    return sum(losses) / len(losses)


def _batches(data: ImageDataModule, accumulated: int) -> Iterator[TrainingBatch]:
    """Training batches, epoch after epoch, `accumulated` of them an optimizer step."""
    assert data.train is not None
    how = {"accumulated": accumulated, "num_batches": data.num_training_batches}
    for epoch in itertools.count():
        order = TrainingOrder(len(data.train), data.batch_size, data.seed, **how)
        order.set_epoch(epoch)
        for chunk in TrainingLoader(data.train, order, order.num_batches):
            yield from chunk.batches()


@style()
def picture(test: RangeTest) -> "Figure":
    drawn = plots.figure(7, 4)
    axes = drawn.subplots()
    axes.plot(test.lrs, test.losses, color="0.8", label="loss of each step")
    axes.plot(test.lrs, test.smoothed, color=SPLITS["train"], label="smoothed")
    if test.suggestion is not None:
        label = f"suggestion: lr={test.suggestion:g}"
        axes.axvline(test.suggestion, color=SPLITS["val"], linestyle="--", label=label)
    top = max(test.smoothed[0], 1.5 * test.smoothed[0] - 0.5 * min(test.smoothed))
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", ylim=(None, 1.2 * top))
    axes.legend()
    return drawn
