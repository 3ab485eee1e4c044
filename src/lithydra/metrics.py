"""Loss and accuracy by split."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy


class MeanLoss(Metric):
    """Mean over images of batches' mean losses; NaN stays NaN.

    Torchmetrics' MeanMetric (1.9) either drops NaN or, with `nan_strategy="disable"`, the weights.
    """

    total: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, losses: Tensor, sizes: Tensor) -> None:
        self.total += (losses.float() * sizes).sum()
        self.num_images += sizes.sum()

    def compute(self) -> Tensor:
        return self.total / self.num_images


class SplitMetrics(nn.Module):
    """Mean loss per image and accuracy of one split over an epoch.

    What the batches give stays on the device until the epoch's end: one update of torchmetrics' metrics costs as much
    as a small net takes for a batch.
    """

    def __init__(self, split: str, num_classes: int) -> None:
        super().__init__()
        self.split = split
        self.loss = MeanLoss()
        self.acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, loss: Tensor, predictions: Tensor, labels: Tensor) -> None:
        """Mean loss () of a batch; predicted and true class (B,) of its images."""
        self._batches.append((loss, predictions, labels))

    def metrics(self) -> dict[str, Metric]:
        return {f"{self.split}/loss": self.loss, f"{self.split}/acc": self.acc}

    def compute(self) -> dict[str, Tensor]:
        """`{"val/loss": …, "val/acc": …}`, each a scalar, over all processes."""
        if self._batches:
            losses, predictions, labels = zip(*self._batches, strict=True)
            sizes = torch.tensor([len(batch) for batch in labels], device=losses[0].device)
            self.loss.update(torch.stack(losses), sizes)
            self.acc.update(torch.cat(predictions), torch.cat(labels))
            self._batches = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method")  # of a process that has no image
            return {name: metric.compute() for name, metric in self.metrics().items()}

    def reset(self) -> None:
        self._batches = []
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

    @classmethod
    def total(cls, parts: Iterable[dict[str, Any]]) -> "TrainingSums":
        """The sum of several, as a checkpoint holds them."""
        total = cls()
        for part in parts:
            total.loss += part["loss"]
            total.num_correct += part["num_correct"]
            total.num_images += part["num_images"]
        return total

    def add(self, losses: list[Tensor], logits: list[Tensor], labels: list[Tensor]) -> None:
        """Add some batches: mean loss (), logits (B, outputs) and targets of each."""
        predicted, target = predicted_classes(torch.cat(logits)), torch.cat(labels)
        if target.ndim == 2:  # probabilities, of mixed images
            target = target.argmax(dim=1)
        self.num_correct += int((predicted == target).sum())
        for value, batch in zip(torch.stack(losses).tolist(), labels, strict=True):
            self.loss += value * len(batch)
        self.num_images += len(target)


def predicted_classes(logits: Tensor) -> Tensor:
    """(B,) int64: the most probable class of logits (B, num_classes), or of a single logit (B, 1)."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
