"""The LightningModules: `GradientClassifier` trains by gradient descent, `StatisticsClassifier` by one look at the data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lithydra.data.loaders import Batch, Chunk, TrainingBatch
from lithydra.errors import DivergedError
from lithydra.normalization import Normalization


class SplitMetrics(nn.Module):
    """Mean loss per image and accuracy of one split, summed on the device over an epoch."""

    def __init__(self, split: str, num_classes: int) -> None:
        super().__init__()
        self.split = split
        self.loss = MeanMetric(nan_strategy="disable")
        self.acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def update(self, losses: Tensor, sizes: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Mean loss (n,) and number of images (n,) of n batches; predicted and true class (B,) of all their images."""
        self.loss.update(losses, sizes)
        self.acc.update(predictions, labels)

    def metrics(self) -> dict[str, Metric]:
        return {f"{self.split}/loss": self.loss, f"{self.split}/acc": self.acc}

    def compute(self) -> dict[str, Tensor]:
        """`{"val/loss": …, "val/acc": …}`, each a scalar."""
        return {name: metric.compute() for name, metric in self.metrics().items()}

    def reset(self) -> None:
        for metric in self.metrics().values():
            metric.reset()


@dataclass
class TrainingSums:
    """Loss and accuracy of the training batches of one epoch, as they were when each batch was trained on.

    Plain Python numbers, added in the order of the batches: the sums are the same bit for bit however the epoch was
    divided into chunks or resumed, and a chunk costs one wait for the device instead of a metric update a step.
    """

    loss: float = 0.0
    num_correct: int = 0
    num_images: int = 0

    def add(self, losses: list[Tensor], logits: list[Tensor], labels: list[Tensor]) -> bool:
        """Add some batches: mean loss (), logits (B, outputs) and targets of each. False where a loss is not finite."""
        predicted, target = predicted_classes(torch.cat(logits)), torch.cat(labels)
        if target.ndim == 2:  # probabilities, of mixed images
            target = target.argmax(dim=1)
        correct = (predicted == target).sum()
        *values, num_correct = torch.stack([*(x.double() for x in losses), correct.double()]).tolist()
        for value, batch in zip(values, labels, strict=True):
            self.loss += value * len(batch)
        self.num_correct += int(num_correct)
        self.num_images += len(target)
        return math.isfinite(self.loss)


class Classifier(L.LightningModule):
    """Raw images in, logits out: normalization and net, with the evaluation that every classifier shares."""

    def __init__(self, net: nn.Module, normalization: Normalization, loss: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.normalization, self.loss = net, normalization, loss
        self.num_classes = num_classes
        self.epoch_metrics: dict[str, float] = {}  # of the epoch at hand, by name
        self.layer_shapes: dict[str, tuple[int, ...]] = {}  # output of each layer of the net, without the batch
        self.record: dict[str, Any] = {}  # config and data, as plain values: what a checkpoint needs to be rebuilt
        self.train_sums = TrainingSums()
        self.val_metrics = SplitMetrics("val", num_classes)
        self.test_metrics = SplitMetrics("test", num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), or (B, 1) of a single-logit net, for images (B, C, H, W) uint8 or float in [0, 1]."""
        return self.net(self.normalization(images))

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, num_classes) float32, each row sums to 1."""
        if logits.shape[1] == 1:
            positive = logits.float().sigmoid()
            return torch.cat([1 - positive, positive], dim=1)
        return logits.float().softmax(dim=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lithydra"] = {**self.record, "train_sums": asdict(self.train_sums)}

    def on_train_epoch_start(self) -> None:
        self.train_sums = TrainingSums()
        self.epoch_metrics = {}

    def _evaluate(self, metrics: SplitMetrics, batch: Batch) -> None:
        images, labels = batch[0].to(self.device), batch[1].to(self.device)
        logits = self(images)
        loss = self.loss(logits, labels)
        metrics.update(loss, torch.tensor(len(labels), device=loss.device), predicted_classes(logits), labels)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.test_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)

    def _report(self, metrics: SplitMetrics) -> None:
        """Give an epoch's metrics to the callbacks, and to the loggers at the optimizer step that they belong to."""
        values = {name: value.item() for name, value in metrics.compute().items()}
        metrics.reset()
        self.report(values)

    def report(self, values: dict[str, float]) -> None:
        self.epoch_metrics.update(values)
        self.log_dict(values, logger=False)
        self.write(values, self.global_step)

    def _report_training(self) -> None:
        """The training metrics of the epoch, over all processes."""
        sums = torch.tensor([*asdict(self.train_sums).values()], dtype=torch.float64, device=self.device)
        loss, num_correct, num_images = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()  # pyright: ignore
        self.report({"train/loss": loss / num_images, "train/acc": num_correct / num_images})

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to every logger. `self.log` would count calls of `training_step`, not optimizer steps."""
        if self.trainer.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics(values, step=step)


class GradientClassifier(Classifier):
    """A classifier trained by gradient descent, `steps_per_execution` optimizer steps in a call of `training_step`.

    Lightning's cost per call is paid once per chunk of batches. Optimization is manual, so that accumulation, clipping,
    schedulers and `global_step` go by optimizer steps whatever the size of the chunk. A callback with a method
    `on_optimizer_step(trainer, module)` is called after each of them.

    Args:
        optimizer: Called with the trainable parameters.
        scheduler: Called with the optimizer and the number of optimizer steps an epoch; None keeps lr constant.
        scheduler_interval: When the scheduler steps.
        monitor: The metric that a plateau scheduler watches.
        penalties: Called with the trainable parameters; each is added to the loss, and not to the loss that is reported.
        augmentation: Called in training with images (B, C, H, W) float in [0, 1] and labels; returns both.
        gradient_clip_val: Largest norm, or largest absolute value, of the gradient; None clips nothing.
    """

    def __init__(
        self,
        net: nn.Module,
        normalization: Normalization,
        loss: nn.Module,
        num_classes: int,
        *,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        scheduler_interval: Literal["step", "epoch"] = "epoch",
        monitor: str = "val/acc",
        penalties: Sequence[Callable[[Sequence[Tensor]], Tensor]] = (),
        augmentation: nn.Module | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        log_every_n_steps: int = 50,
    ) -> None:
        super().__init__(net, normalization, loss, num_classes)
        self._make_optimizer, self._make_scheduler = optimizer, scheduler
        self.scheduler_interval, self.monitor = scheduler_interval, monitor
        self.penalties, self.augmentation = penalties, augmentation
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val, self.gradient_clip_algorithm = gradient_clip_val, gradient_clip_algorithm
        self.log_every_n_steps = log_every_n_steps
        self.trained = [p for p in self.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        optimizer = self._make_optimizer(self.trained)
        if self._make_scheduler is None:
            return optimizer
        num_batches = self.trainer.datamodule.num_training_batches  # pyright: ignore[reportAttributeAccessIssue]
        scheduler = self._make_scheduler(optimizer, math.ceil(num_batches / self.accumulate_grad_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": self.monitor}}

    def on_fit_start(self) -> None:
        # Looked up once: a look-up through the trainer costs as much as a small layer.
        self._optimizer: Optimizer = self.optimizers(use_pl_optimizer=False)  # pyright: ignore[reportAttributeAccessIssue]
        self._scheduler: Any = self.lr_schedulers()
        self._scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self._progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        self._observers: list[Any] = [c for c in self.trainer.callbacks if hasattr(c, "on_optimizer_step")]  # pyright: ignore[reportAttributeAccessIssue]
        # Without these two, Lightning's hooks around backward() have nothing to do, at 5 % of a small net's step.
        direct = isinstance(self.trainer.strategy, SingleDeviceStrategy) and self._scaler is None
        self._backward = torch.Tensor.backward if direct else self.manual_backward

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        """Train on each batch of the chunk; the device is not waited for until its end."""
        self._pending: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])  # losses, logits, labels
        to_log: list[tuple[int, Tensor, float]] = []  # step, loss, lr
        max_steps = self.trainer.max_steps
        for batch in chunk:
            lr = self._optimizer.param_groups[0]["lr"]
            updates = batch.is_last or batch.number % self.accumulate_grad_batches == 0
            loss = self._train(batch, updates)
            if updates:
                step = self.global_step
                if step % self.log_every_n_steps == 0:
                    to_log.append((step, loss, lr))
                for observer in self._observers:
                    observer.on_optimizer_step(self.trainer, self)
                if step == max_steps:
                    break
        self._settle()
        for step, loss, lr in to_log:
            self.write({"train/loss_step": loss.item(), "lr": lr}, step)

    def _train(self, batch: TrainingBatch, updates: bool) -> Tensor:
        """Forward and backward on one batch, then the optimizer's step if it is due. Returns the batch's mean loss."""
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        if self.augmentation is not None:
            images, labels = self.augmentation(images.float().div_(255), labels)
        evaluations: list[tuple[Tensor, Tensor]] = []

        def evaluate() -> Tensor:
            logits = self(images)
            loss = self.loss(logits, labels)
            total = loss + sum(penalty(self.trained) for penalty in self.penalties) if self.penalties else loss
            self._backward(total / self.accumulate_grad_batches if self.accumulate_grad_batches > 1 else total)
            evaluations.append((loss.detach(), logits.detach()))
            return total

        if isinstance(self._optimizer, LBFGS):
            self._update(lambda: (self._zero_grad(), evaluate())[1])
        else:
            evaluate()
            if updates:
                self._update()
                self._zero_grad()
        loss, logits = evaluations[0]
        for values, value in zip(self._pending, (loss, logits, labels), strict=True):
            values.append(value)
        return loss

    def _update(self, closure: Callable[[], Tensor] | None = None) -> None:
        """One optimizer step: clip, step, count it, step the scheduler."""
        optimizer, scaler = self._optimizer, self._scaler
        if scaler is not None and self.gradient_clip_val is not None:
            scaler.unscale_(optimizer)
        if self.gradient_clip_val is not None:
            if self.gradient_clip_algorithm == "norm":
                nn.utils.clip_grad_norm_(self.trained, self.gradient_clip_val)
            else:
                nn.utils.clip_grad_value_(self.trained, self.gradient_clip_val)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        # Autocast keeps the weights that it has cast until its context ends, and that is the whole chunk.
        torch.clear_autocast_cache()
        self._progress.increment_ready()
        self._progress.increment_completed()
        if self._scheduler is not None and self.scheduler_interval == "step":
            self._scheduler.step()

    def _zero_grad(self) -> None:
        for parameter in self.trained:
            parameter.grad = None

    def _settle(self) -> None:
        """Add the batches trained since the last time to the epoch's sums."""
        losses, logits, labels = self._pending
        if losses and not self.train_sums.add(losses, logits, labels):
            raise DivergedError(f"The loss became {self.train_sums.loss} in the {len(losses)} steps to {self.global_step}")
        self._pending = ([], [], [])

    def on_train_epoch_end(self) -> None:
        self.report({"lr": self._optimizer.param_groups[0]["lr"]})
        self._report_training()
        if self._scheduler is None or self.scheduler_interval == "step":
            return
        # Lightning steps no scheduler in manual optimization, and would skip a plateau's step after each resume.
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(self.epoch_metrics[self.monitor])
        else:
            self._scheduler.step()


class StatisticsClassifier(Classifier):
    """A classifier whose net learns from the data's statistics: one pass of `net.fit_batch`, no gradient."""

    def configure_optimizers(self) -> None:
        return None

    def training_step(self, chunk: Chunk, batch_idx: int) -> None:
        for batch in chunk:
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            self.net.fit_batch(self.normalization(images), labels)  # pyright: ignore[reportCallIssue]

    def on_train_epoch_end(self) -> None:
        """The training metrics need the finished statistics, so they take a second pass."""
        order = self.trainer.datamodule.train_dataloader()  # pyright: ignore
        for batch in (b for chunk in order for b in chunk):
            images, labels = batch.images.to(self.device), batch.labels.to(self.device)
            logits = self(images)
            self.train_sums.add([self.loss(logits, labels)], [logits], [labels])
        self._report_training()


def predicted_classes(logits: Tensor) -> Tensor:
    """(B,) int64: the most probable class of logits (B, num_classes), or of a single logit (B, 1)."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
