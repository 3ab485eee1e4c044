"""The base LightningModule: raw images in, logits out, and the evaluation that every classifier shares."""

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lithydra.data.splits import Batch
from lithydra.methods.base import Method
from lithydra.metrics import SplitMetrics, TrainingMetrics, TrainingSums, probabilities
from lithydra.training import position
from lithydra.training.averaging import Average
from lithydra.training.collectives import gathered
from lithydra.training.divergence import refuse_broken_evaluation
from lithydra.training.lightning_inside import set_loops
from lithydra.training.views import View, single_view


class Classifier(L.LightningModule):
    """Raw images in, logits out: normalization and net, with the evaluation that every classifier shares.

    Args:
        method: Bound to its parts.
        metrics: Torchmetrics' metrics by name, beside the loss.
        average: Weights that are evaluated in place of the trained ones.
        tta: Test-time augmentation: a net and normalized images to logits.
        train_metrics: Whether the metrics are computed of the training batches, too.
    """

    def __init__(
        self,
        method: Method,
        num_classes: int,
        metrics: Mapping[str, Metric],
        *,
        average: Average | None = None,
        tta: View = single_view,
        train_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.normalization, self.loss = method.net, method.normalize, method.loss
        self.method, self.average, self.tta = method, average, tta
        self.num_classes = num_classes
        self.epoch_metrics: dict[str, float] = {}  # of the epoch at hand, by name
        self.metric_names: list[str] = []  # of what an epoch measures, as the dry run has found them
        self.layer_shapes: dict[str, tuple[int, ...]] = {}  # output of each layer of the net, without the batch
        self.step_flops: int | None = None  # of a batch of this process, as the dry run has counted
        self.step_seconds: dict[str, float] | None = None  # by precision, where they were compared
        self._random_states: list[dict[str, Any]] = []  # of each process of the run that is resumed
        self.record: dict[str, Any] = {}  # config and data, as plain values: what a checkpoint needs to be rebuilt
        self.train_sums = TrainingSums()
        self.train_metrics = TrainingMetrics(metrics if train_metrics and method.classifies else {})
        chosen = metrics if method.classifies else None
        self.val_metrics, self.test_metrics = SplitMetrics("val", chosen), SplitMetrics("test", chosen)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), or (B, 1) with a single logit, of images (B, C, H, W) uint8 or float in [0, 1].

        In evaluation mode they are those of the averaged weights, if there are any, over the test-time views.
        """
        x = self.normalization(images)
        return self.net(x) if self.training else self.tta(self.evaluated_net, x)

    @property
    def evaluated_net(self) -> nn.Module:
        """With the averaged weights, if there are any, else the net that is trained."""
        return self.net if self.average is None else self.average.net

    @property
    def num_images(self) -> int | None:
        """Trained by this process in the epoch at hand."""
        return self.train_sums.num_images

    @property
    def class_names(self) -> list[str]:
        """By label."""
        return self.record["data"]["class_names"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it was trained on."""
        channels, height, width = self.record["data"]["image_shape"]
        return channels, height, width

    @staticmethod
    def probabilities(logits: Tensor) -> Tensor:
        """(B, num_classes) float32, each row sums to 1."""
        return probabilities(logits)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {"train_sums": vars(self.train_sums), "random_state": position.random_state()}
        own["train_metrics"] = self.train_metrics.state()
        first, *others = gathered(own, self.trainer)
        progress = {**first, "other_processes": others, "epoch_metrics": self.epoch_metrics}
        checkpoint["record"] = {**self.record, "progress": {**progress, **position.progress(self.trainer)}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning converts the module after it has loaded the weights, and so would round float64 to float32.
        self.trainer.precision_plugin.convert_module(self)
        progress: dict[str, Any] = checkpoint["record"]["progress"]
        rank, shares = self.trainer.global_rank, [progress, *progress.get("other_processes", [])]
        own = shares[rank :: self.trainer.world_size]
        self.train_sums = TrainingSums.total(share["train_sums"] for share in own)
        self.train_metrics.restore(share["train_metrics"] for share in own if share.get("train_metrics"))
        self._random_states = [share["random_state"] for share in shares]
        self.epoch_metrics = progress["epoch_metrics"]
        checkpoint["state_dict"] = self.state_of(checkpoint)
        set_loops(checkpoint, progress, self.trainer)

    def state_of(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's state; with `resume_anyway`, new settings of the loss win over what it was saved with."""
        state: dict[str, Any] = checkpoint["state_dict"]
        if checkpoint["record"]["config"]["loss"] == self.record["config"]["loss"]:
            return state
        others = {key: value for key, value in state.items() if not key.startswith("loss.")}
        return others | self.loss.state_dict(prefix="loss.")

    def on_train_start(self) -> None:
        position.take_random_state(self._random_states, self.trainer.global_rank)
        self._random_states = []

    def on_train_epoch_start(self) -> None:
        self.train_sums = TrainingSums()
        self.train_metrics.reset()
        self.epoch_metrics = {}

    def _evaluate(self, metrics: SplitMetrics, batch: Batch) -> Tensor:
        images, labels = batch[0].to(self.device), batch[1].to(self.device)
        if not len(labels):  # fewer images than processes: this one has none
            return torch.zeros(0, self.num_classes, device=self.device)
        logits = self(images)
        if metrics.classifies:
            metrics.update(self.loss(logits, labels), logits, labels)
        with self.method.using(self.evaluated_net):
            metrics.update_means(self.method.evaluation(images, labels), len(labels))
        return logits

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's logits, for callbacks."""
        return self._evaluate(self.test_metrics, batch)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)

    def _report(self, metrics: SplitMetrics) -> None:
        """Give an epoch's metrics to the callbacks, and to the loggers at the optimizer step that they belong to."""
        values = {name: value.item() for name, value in metrics.compute().items()}
        metrics.reset()
        refuse_broken_evaluation(values, self.global_step)
        self.report(values)

    def report(self, values: dict[str, float]) -> None:
        """Metrics that are already summed over all processes.

        Lightning's callbacks read `trainer.callback_metrics`; `self.log_dict` would fill it too, but takes 0.3 s at its
        first call and 1.5 ms at each later one.
        """
        self.epoch_metrics.update(values)
        self.trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        self.write(values, self.global_step)

    def count(self, losses: list[Tensor], logits: list[Tensor | None], targets: list[Tensor]) -> None:
        """Add batches that were trained on to the metrics of the epoch's training."""
        self.train_sums.add(losses, logits, targets)
        if self.train_metrics.named:
            for of_batch, target in zip(logits, targets, strict=True):
                if of_batch is not None:
                    self.train_metrics.update(of_batch, target)

    def _report_training(self) -> None:
        """The training metrics of the epoch, over all processes."""
        shares = gathered(vars(self.train_sums), self.trainer)
        self.report(TrainingSums.total(shares).metrics() | self.train_metrics.compute())

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to every logger. `self.log` would count calls of `training_step`, not optimizer steps."""
        if self.trainer.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics(values, step=step)
