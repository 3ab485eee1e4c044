"""The classifier that gradient descent trains: the inside of the training loop."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lithydra.data.loaders import Chunk, TrainingBatch
from lithydra.methods.base import Method
from lithydra.metrics import TrainedBatch
from lithydra.training import transfer
from lithydra.training.checkpoint import kept
from lithydra.training.classifier import Classifier
from lithydra.training.divergence import all_finite, first_not_finite, loss_diverged, state_diverged
from lithydra.training.lightning_inside import call_hook, set_logged_step, step_counter
from lithydra.training.optimization import Optimization, clip, step_after_epoch, total_norm

log = logging.getLogger(__name__)


class GradientClassifier(Classifier):
    """A classifier trained by gradient descent, `steps_per_execution` optimizer steps in a call of `training_step`.

    Lightning's cost per call is paid once per chunk of batches. Optimization is manual, so that accumulation, clipping,
    schedulers and `global_step` go by optimizer steps whatever the size of the chunk. A callback with a method
    `on_optimizer_step(trainer, module)` is called after each of them. At one step an execution, Lightning's own hooks
    around a batch are called as in its automatic optimization.

    Args:
        optimization: Makes the optimizer and the scheduler.
        scheduler_interval: When the scheduler steps.
        monitor: The metric that a plateau scheduler watches.
        penalties: Called with the trainable parameters; added to the loss, but not to the one that is reported.
        gradient_clip_val: Largest norm, or largest absolute value, of the gradient; None clips nothing.
        others: Of `Classifier`.
    """

    def __init__(
        self,
        method: Method,
        num_classes: int,
        metrics: Mapping[str, Metric],
        *,
        optimization: Optimization,
        scheduler_interval: Literal["step", "epoch"] = "epoch",
        monitor: str = "val/acc",
        penalties: Sequence[Callable[[Sequence[Tensor]], Tensor]] = (),
        accumulate_grad_batches: int = 1,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        log_every_n_steps: int = 50,
        **others: Any,
    ) -> None:
        super().__init__(method, num_classes, metrics, **others)
        self._optimization = optimization
        self.scheduler_interval, self.monitor, self.penalties = scheduler_interval, monitor, penalties
        self.accumulate_grad_batches = accumulate_grad_batches
        self.gradient_clip_val, self.gradient_clip_algorithm = gradient_clip_val, gradient_clip_algorithm
        self.log_every_n_steps = log_every_n_steps
        self.trained = [p for p in self.parameters() if p.requires_grad]
        self._frozen_norms = transfer.frozen_norms(self.net)
        self._trained: list[TrainedBatch] = []  # that the epoch's sums are still to have
        self._by_batch = False  # one step an execution
        self._updated = False  # whether the last batch ended in an optimizer step
        self._objective = torch.zeros(())  # what the last batch's gradient is of
        self._gradient_norm = torch.zeros(())  # of the step that was last logged, before clipping
        self._to_log: list[tuple[int, dict[str, Tensor | float]]] = []  # steps and their values, for the loggers

    def train(self, mode: bool = True) -> "GradientClassifier":
        super().train(mode)
        for name in self._frozen_norms:
            self.net.get_submodule(name).eval()
        return self

    def configure_optimizers(self) -> Any:
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        optimizer, scheduler = self.make_optimizer_and_scheduler(data.num_training_batches)
        interval = {"scheduler": scheduler, "interval": self.scheduler_interval}
        return [optimizer], [interval] if scheduler is not None else []

    def make_optimizer_and_scheduler(self, batches_per_epoch: int) -> tuple[Optimizer, LRScheduler | None]:
        return self._optimization(self, self.net, math.ceil(batches_per_epoch / self.accumulate_grad_batches))

    def prepare(self, optimizer: Optimizer, scheduler: Any = None, scaler: Any = None) -> None:
        """Take what steps of training need; enough for `train_on`, without a Trainer."""
        self._optimizer, self._scheduler, self._scaler = optimizer, scheduler, scaler
        backward = torch.Tensor.backward
        self._backward: Callable[[Tensor], Any] = backward if scaler is None else lambda x: backward(scaler.scale(x))

    @property
    def lr(self) -> float:
        """That of the first group of parameters."""
        return self._optimizer.param_groups[0]["lr"]

    def train_on(self, batch: TrainingBatch) -> tuple[TrainedBatch, bool]:
        """Train on one batch. Returns what came of it, and whether it ended in an optimizer step."""
        return self._train(batch, updates := self._updates_after(batch), step=1, is_logged=False), updates

    def on_fit_start(self) -> None:
        # Looked up once: a look-up through the trainer costs as much as a small layer.
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        self.prepare(optimizer, self.lr_schedulers(), getattr(self.trainer.precision_plugin, "scaler", None))
        trainer: Any = self.trainer
        self.agreed: Callable[[bool], bool] = trainer.strategy.reduce_boolean_decision  # true in every process
        self._progress = step_counter(trainer)
        self._observers = [c.on_optimizer_step for c in trainer.callbacks if hasattr(c, "on_optimizer_step")]
        self._by_batch = trainer.datamodule.steps_per_execution == 1
        # Without these three, Lightning's hooks around backward() have nothing to do, at 5 % of a small net's step.
        direct = isinstance(self.trainer.strategy, SingleDeviceStrategy) and self._scaler is None
        if not direct or self._by_batch:
            self._backward = self.manual_backward

    def on_train_start(self) -> None:
        super().on_train_start()
        self.train()  # Lightning leaves modes as they are, and would warn of frozen norms that it finds in eval mode
        if self._by_batch:  # Lightning now counts and logs steps as in automatic optimization
            trainer: Any = self.trainer
            trainer.accumulate_grad_batches = self.accumulate_grad_batches
            trainer.log_every_n_steps = self.log_every_n_steps

    def on_validation_start(self) -> None:
        """Evaluate with the first process's statistics of BatchNorm, which are those that are saved."""
        for buffer in self.buffers() if self.trainer.world_size > 1 else ():  # the average has its own
            torch.distributed.broadcast(buffer, 0)

    def training_step(self, chunk: Chunk, batch_idx: int) -> dict[str, Tensor] | None:
        """Train on each batch of the chunk; the device is not waited for until its end.

        Raises:
            DivergedError: A loss is infinite or NaN. The weights may be, too, but are not saved then.
        """
        self._train_chunk(chunk)
        if self._by_batch:
            return {"loss": self._objective}
        set_logged_step(self.trainer, self.global_step)

    def _train_chunk(self, chunk: Chunk) -> None:
        max_steps, step = self.trainer.max_steps, self.global_step  # a look-up costs as much as a small layer
        for batch in chunk.batches():
            updates = self._updates_after(batch)
            is_logged = updates and (step + 1) % self.log_every_n_steps == 0
            trained = self._train(batch, updates, step + 1, is_logged)
            self._trained.append(trained)
            self._updated = updates
            if updates:
                self._progress.increment_ready()
                self._progress.increment_completed()
                if self._scheduler is not None and self.scheduler_interval == "step":
                    self._scheduler.step()
                step += 1
                if is_logged:
                    norm = self._gradient_norm
                    self._to_log.append(
                        (step, {"train/loss_step": trained.loss, "lr": trained.lr, "gradient_norm": norm})
                    )
                if not self._by_batch:  # else when the callbacks that need every batch have had it
                    self._observe()
                if step == max_steps:
                    self.trainer.should_stop = True  # validate here, wherever in the epoch this is
                    break
        self._settle()
        self._write_steps()

    def on_train_batch_end(self, outputs: Any, batch: Chunk, batch_idx: int) -> None:
        if self._by_batch and self._updated:
            self._observe()

    def _observe(self) -> None:
        for observe in self._observers:
            observe(self.trainer, self)

    def _write_steps(self) -> None:
        """Give the loggers what they have not had of this chunk."""
        for step, values in self._to_log:
            self.write({name: float(value) for name, value in values.items()}, step)
        self._to_log = []

    def _updates_after(self, batch: TrainingBatch) -> bool:
        return batch.is_last or batch.number % self.accumulate_grad_batches == 0

    def _train(self, batch: TrainingBatch, updates: bool, step: int, is_logged: bool) -> TrainedBatch:
        """Forward and backward on one batch, then the optimizer's step if it is due."""
        lr = self.lr
        images, labels = batch.images.to(self.device), batch.labels.to(self.device)
        self.method.augment.set_position(batch.epoch, batch.positions)
        images, labels = self.method.views(images, labels)
        evaluations: list[tuple[Tensor, Tensor | None, list[tuple[str, Tensor]]]] = []
        with_closure = isinstance(self._optimizer, LBFGS)
        # Hooks may look at gradients until the next forward pass is done; else they are freed at once.
        zero_first = with_closure or (self._by_batch and (batch.number - 1) % self.accumulate_grad_batches == 0)

        def evaluate() -> Tensor:
            loss, logits = self.method.training_loss(images, labels)
            total = loss + sum(penalty(self.trained) for penalty in self.penalties) if self.penalties else loss
            if zero_first:
                self._zero_grad()
            objective = total * batch.weight if batch.weight != 1 else total
            self._backward(objective)
            if self._by_batch:
                self._objective = objective.detach()
            evaluations.append((loss.detach(), None if logits is None else logits.detach(), self.method.take_means()))
            if with_closure:
                self._call("on_before_optimizer_step")
            return total

        if with_closure:
            self._update(is_logged, evaluate)
        else:
            evaluate()
            if updates:
                self._update(is_logged)
                if not self._by_batch:
                    self._zero_grad()
        loss, logits, means = evaluations[0]
        if batch.weight == 0:  # another process counts these images
            logits, labels = None if logits is None else logits[:0], labels[:0]
        return TrainedBatch(step, lr, loss, logits, labels, means)

    def _update(self, is_logged: bool, closure: Callable[[], Tensor] | None = None) -> None:
        """One optimizer step, with the gradient clipped."""
        optimizer, scaler = self._optimizer, self._scaler
        if scaler is not None and (is_logged or self._by_batch or self.gradient_clip_val is not None):
            scaler.unscale_(optimizer)
        if closure is None:
            self._call("on_before_optimizer_step")
            if is_logged:
                self._gradient_norm = total_norm(self.trained)
        if self.gradient_clip_val is not None:
            clip(self.trained, self.gradient_clip_val, self.gradient_clip_algorithm)
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step(closure)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if is_logged and closure is not None:  # of the closure's last evaluation
            self._gradient_norm = total_norm(self.trained)
        # Autocast keeps the weights that it has cast until its context ends, and that is the whole chunk.
        torch.clear_autocast_cache()

    def _call(self, hook: str) -> None:
        if self._by_batch:
            call_hook(self, hook, self._optimizer)

    def _zero_grad(self) -> None:
        self._call("on_before_zero_grad")
        for parameter in self.trained:
            parameter.grad = None

    def _settle(self) -> None:
        """Add the batches trained since the last time to the epoch's sums. Raises DivergedError."""
        trained, self._trained = self._trained, []
        if not trained:
            return
        losses = [batch.loss for batch in trained]
        self.count(losses, [batch.logits for batch in trained], [batch.labels for batch in trained])
        self.train_sums.add_means([(name, x, len(batch.labels)) for batch in trained for name, x in batch.means])
        if not self.agreed(math.isfinite(self.train_sums.loss)):
            position = torch.tensor(first_not_finite(losses), device=self.device)
            first = int(self.trainer.strategy.reduce(position, reduce_op="min"))  # pyright: ignore[reportArgumentType]
            batch = trained[min(first, len(trained) - 1)]
            raise loss_diverged(batch.step, batch.lr, kept(self.trainer).saved_step)

    def _refuse_broken_state(self) -> None:
        """Raise DivergedError if a finite loss was enough to break a weight, or a statistic of BatchNorm."""
        buffers = {name: b for name, b in self.net.named_buffers("net") if b.is_floating_point()}
        if not self.agreed(all_finite([*self.trained, *buffers.values()])):
            named = [*self.named_parameters(), *buffers.items()]
            raise state_diverged(named, self.global_step, self.lr, kept(self.trainer).saved_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._settle()
        self._refuse_broken_state()
        self._write_steps()  # a run that goes on from here does not train these steps again
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With `resume_anyway`, new settings of the optimizer win over those that it was saved with."""
        super().on_load_checkpoint(checkpoint)
        before, now = checkpoint["record"]["config"], self.record["config"]
        if all(before[group] == now[group] for group in ("optimizer", "scheduler")):
            return
        fresh, scheduler = self.make_optimizer_and_scheduler(self.trainer.datamodule.num_training_batches)  # pyright: ignore
        checkpoint["optimizer_states"][0]["param_groups"] = fresh.state_dict()["param_groups"]
        checkpoint["lr_schedulers"] = []
        if scheduler is not None:
            log.warning("The optimizer's settings have changed: the scheduler starts at its beginning.")

    def on_train_epoch_end(self) -> None:
        self.report({"lr": self.lr})
        self._report_training()
        # Lightning steps no scheduler in manual optimization, and would skip a plateau's step after each resume.
        if self._scheduler is not None and self.scheduler_interval == "epoch":
            step_after_epoch(self._scheduler, self.epoch_metrics.get(self.monitor))
