"""The base LightningModule: raw images in, logits out, and the evaluation that every classifier shares."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lithydra.data.splits import Batch
from lithydra.metrics import SplitMetrics, TrainingSums, predicted_classes
from lithydra.normalization import Normalization
from lithydra.training import position
from lithydra.training.collectives import gathered
from lithydra.training.divergence import refuse_broken_evaluation
from lithydra.training.lightning_inside import set_loops


class Classifier(L.LightningModule):
    """Raw images in, logits out: normalization and net, with the evaluation that every classifier shares."""

    def __init__(self, net: nn.Module, normalization: Normalization, loss: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.normalization, self.loss = net, normalization, loss
        self.num_classes = num_classes
        self.epoch_metrics: dict[str, float] = {}  # of the epoch at hand, by name
        self.layer_shapes: dict[str, tuple[int, ...]] = {}  # output of each layer of the net, without the batch
        self._random_states: list[dict[str, Any]] = []  # of each process of the run that is resumed
        self.record: dict[str, Any] = {}  # config and data, as plain values: what a checkpoint needs to be rebuilt
        self.train_sums = TrainingSums()
        self.val_metrics = SplitMetrics("val", num_classes)
        self.test_metrics = SplitMetrics("test", num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes), or (B, 1) with a single logit, of images (B, C, H, W) uint8 or float in [0, 1]."""
        return self.net(self.normalization(images))

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
        if logits.shape[1] == 1:
            positive = logits.float().sigmoid()
            return torch.cat([1 - positive, positive], dim=1)
        return logits.float().softmax(dim=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {"train_sums": vars(self.train_sums), "random_state": position.random_state()}
        first, *others = gathered(own, self.trainer)
        progress = {**first, "other_processes": others, "epoch_metrics": self.epoch_metrics}
        checkpoint["lithydra"] = {**self.record, "progress": {**progress, **position.progress(self.trainer)}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress: dict[str, Any] = checkpoint["lithydra"]["progress"]
        rank, shares = self.trainer.global_rank, [progress, *progress.get("other_processes", [])]
        self.train_sums = TrainingSums.total(share["train_sums"] for share in shares[rank :: self.trainer.world_size])
        self._random_states = [share["random_state"] for share in shares]
        self.epoch_metrics = progress["epoch_metrics"]
        set_loops(checkpoint, progress, self.trainer)

    def on_train_start(self) -> None:
        position.take_random_state(self._random_states, self.trainer.global_rank)
        self._random_states = []

    def on_train_epoch_start(self) -> None:
        self.train_sums = TrainingSums()
        self.epoch_metrics = {}

    def _evaluate(self, metrics: SplitMetrics, batch: Batch) -> Tensor:
        images, labels = batch[0].to(self.device), batch[1].to(self.device)
        if not len(labels):  # fewer images than processes: this one has none
            return torch.zeros(0, self.num_classes, device=self.device)
        logits = self(images)
        metrics.update(self.loss(logits, labels), predicted_classes(logits), labels)
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

    def _report_training(self) -> None:
        """The training metrics of the epoch, over all processes."""
        device = self.device if self.trainer.world_size > 1 else "cpu"  # not all devices have float64
        sums = torch.tensor([*vars(self.train_sums).values()], dtype=torch.float64, device=device)
        loss, num_correct, num_images = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()  # pyright: ignore
        self.report({"train/loss": loss / num_images, "train/acc": num_correct / num_images})

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to every logger. `self.log` would count calls of `training_step`, not optimizer steps."""
        if self.trainer.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics(values, step=step)
