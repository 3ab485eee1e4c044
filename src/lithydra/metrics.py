"""Loss and accuracy by split."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    """Mean loss per image and the metrics of one split over an epoch.

    What accuracy needs of the batches stays on the device until the epoch's end: one update of torchmetrics' metrics
    costs as much as a small net takes for a batch. Other metrics are updated by batch.

    Args:
        split: train, val or test.
        metrics: Torchmetrics' metrics by name; None for none, and no loss either.
    """

    def __init__(self, split: str, metrics: Mapping[str, Metric] | None) -> None:
        super().__init__()
        self.split = split
        self.classifies = metrics is not None
        self.metrics = nn.ModuleDict({f"metric_{name}": metric.clone() for name, metric in (metrics or {}).items()})
        self.loss = MeanLoss()
        self._means = nn.ModuleDict()  # of what a method measures, by name
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Mean loss () of a batch, logits (B, classes) or (B, 1), and classes (B,)."""
        self._batches.append((loss, predicted_classes(logits), labels))
        update_by_batch(self._named().values(), logits, labels)

    def update_means(self, values: Mapping[str, Tensor], size: int) -> None:
        """Further means () over the `size` images of a batch, by name."""
        self.expect(values, next(iter(values.values())).device if values else None)
        for name, value in values.items():
            self._means[name].update(value[None], torch.tensor([size], device=value.device))  # pyright: ignore[reportCallIssue]

    def expect(self, means: Iterable[str], device: torch.device | None = None) -> None:
        """Be ready for means of these names; all processes must be, also one that has no image."""
        for name in means:
            if name not in self._means:
                with torch.inference_mode(False):  # its state outlives an evaluation
                    self._means[name] = MeanLoss().to(device)

    @property
    def means(self) -> list[str]:
        """The names of what a method measures."""
        return list(self._means)

    def _named(self) -> dict[str, Metric]:
        return {name.removeprefix("metric_"): metric for name, metric in self.metrics.items()}  # pyright: ignore[reportReturnType]

    def compute(self) -> dict[str, Tensor]:
        """`{"val/loss": …, "val/acc": …}`, each a scalar, over all processes."""
        named: dict[str, Any] = {"loss": self.loss, **self._named()} if self.classifies else {}
        if self._batches:
            losses, predictions, labels = zip(*self._batches, strict=True)
            sizes = torch.tensor([len(batch) for batch in labels], device=losses[0].device)
            self.loss.update(torch.stack(losses), sizes)
            for metric in filter(takes_classes, self._named().values()):
                metric.update(torch.cat(predictions), torch.cat(labels))
            self._batches = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method")  # of a process that has no image
            return {f"{self.split}/{name}": m.compute() for name, m in {**named, **self._means}.items()}

    def reset(self) -> None:
        self._batches = []
        for metric in (self.loss, *self.metrics.values(), *self._means.values()):
            metric.reset()  # pyright: ignore[reportCallIssue]


class TrainingMetrics(nn.Module):
    """Metrics of the training batches of an epoch, beside loss and accuracy, which `TrainingSums` has.

    Args:
        metrics: Torchmetrics' metrics by name; those that `TrainingSums` has are left out.
    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        super().__init__()
        others = {name: metric for name, metric in metrics.items() if not takes_classes(metric)}
        self.metrics = nn.ModuleDict({f"metric_{name}": metric.clone() for name, metric in others.items()})

    @property
    def named(self) -> dict[str, Metric]:
        """By `train/NAME`."""
        return {f"train/{name.removeprefix('metric_')}": metric for name, metric in self.metrics.items()}  # pyright: ignore[reportReturnType]

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Logits (B, classes) or (B, 1), and classes (B,) or probabilities (B, classes), of a batch."""
        if len(logits):
            update_by_batch(self.named.values(), logits, classes(targets))

    def compute(self) -> dict[str, float]:
        """By `train/NAME`, over all processes."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method")  # of an epoch that goes on with nothing
            return {name: metric.compute().item() for name, metric in self.named.items()}

    def reset(self) -> None:
        for metric in self.named.values():
            metric.reset()

    def state(self) -> dict[str, dict[str, Any]]:
        """By name, what `restore` takes."""
        return {
            name: {key: list(value) if isinstance(value, list) else value for key, value in metric.metric_state.items()}
            for name, metric in self.named.items()
        }

    def restore(self, states: Iterable[dict[str, dict[str, Any]]]) -> None:
        """Go on from these; of a run that has fewer processes than before, each goes on from several."""
        self.reset()
        for index, state in enumerate(states):
            for name, metric in self.named.items():
                moved = {key: _moved(value, metric.device) for key, value in state[name].items()}
                if index:
                    metric.merge_state(moved)
                else:
                    for key, value in moved.items():
                        setattr(metric, key, value)


def _moved(value: Tensor | list[Tensor], device: torch.device) -> Tensor | list[Tensor]:
    return [part.to(device) for part in value] if isinstance(value, list) else value.to(device)


def update_by_batch(metrics: Iterable[Metric], logits: Tensor, labels: Tensor) -> None:
    """Update those that need more than the most probable class by logits (B, outputs) and classes (B,)."""
    others = [metric for metric in metrics if not takes_classes(metric)]
    if others:
        shares = probabilities(logits)
        for metric in others:
            metric.update(shares[:, 1] if for_two_classes(metric) else shares, labels)


def accuracy(num_classes: int) -> Metric:
    """The metric `acc`: the share of images whose most probable class is theirs."""
    return MulticlassAccuracy(num_classes, average="micro", validate_args=False)


def takes_classes(metric: Metric) -> bool:
    """Whether the most probable class of each image is all that a metric needs: that of plain accuracy."""
    return type(metric) is MulticlassAccuracy and metric.average == "micro" and metric.top_k == 1


def for_two_classes(metric: Metric) -> bool:
    """Whether a metric takes the probability of class 1, as torchmetrics' Binary… do."""
    return type(metric).__name__.startswith("Binary")


def probabilities(logits: Tensor) -> Tensor:
    """(B, num_classes) float32, each row sums to 1, of logits (B, num_classes), or of a single logit (B, 1)."""
    if logits.shape[1] == 1:
        positive = logits.float().sigmoid()
        return torch.cat([1 - positive, positive], dim=1)
    return logits.float().softmax(dim=1)


class TrainedBatch(NamedTuple):
    """What is kept of a training batch until its chunk ends: on the device, but for the optimizer step and its lr."""

    step: int
    lr: float
    loss: Tensor  # (), the mean over its images
    logits: Tensor | None
    labels: Tensor
    means: list[tuple[str, Tensor]]  # what the method has logged


@dataclass
class TrainingSums:
    """Loss and accuracy of the training batches of one epoch, as they were when each batch was trained on.

    Plain Python numbers, added in the order of the batches: the sums are the same bit for bit however the epoch was
    divided into chunks or resumed, and a chunk costs one wait for the device instead of a metric update a step.

    Attributes:
        num_classified: Images whose logits are known; 0 where the method gives none.
        means: What the method has logged, each a sum over images.
    """

    loss: float = 0.0
    num_correct: int = 0
    num_images: int = 0
    num_classified: int = 0
    means: dict[str, float] = field(default_factory=dict)

    @classmethod
    def total(cls, parts: Iterable[dict[str, Any]]) -> "TrainingSums":
        """The sum of several, as a checkpoint holds them."""
        total = cls()
        for part in parts:
            total.loss += part["loss"]
            total.num_correct += part["num_correct"]
            total.num_images += part["num_images"]
            total.num_classified += part.get("num_classified", part["num_images"])
            for name, value in part.get("means", {}).items():
                total.means[name] = total.means.get(name, 0.0) + value
        return total

    def add(self, losses: list[Tensor], logits: list[Tensor | None], labels: list[Tensor]) -> None:
        """Add some batches: mean loss (), logits (B, outputs) if there are any, and targets of each."""
        known = [(x, y) for x, y in zip(logits, labels, strict=True) if x is not None]
        if known:
            predicted = predicted_classes(torch.cat([x for x, _ in known]))
            target = classes(torch.cat([y for _, y in known]))
            self.num_correct += int((predicted == target).sum())
            self.num_classified += len(target)
        for value, batch in zip(torch.stack(losses).tolist(), labels, strict=True):
            self.loss += value * len(batch)
            self.num_images += len(batch)

    def add_means(self, values: list[tuple[str, Tensor, int]]) -> None:
        """Add mean values () of batches with so many images, by name."""
        if values:
            for (name, _, size), value in zip(
                values, torch.stack([v.float() for _, v, _ in values]).tolist(), strict=True
            ):
                self.means[name] = self.means.get(name, 0.0) + value * size

    def metrics(self) -> dict[str, float]:
        """`{"train/loss": …, "train/acc": …}`."""
        found = {"train/loss": self.loss / self.num_images}
        if self.num_classified:
            found["train/acc"] = self.num_correct / self.num_classified
        return found | {f"train/{name}": value / self.num_images for name, value in self.means.items()}


def classes(targets: Tensor) -> Tensor:
    """(B,) int64: classes as they are, or the most probable one of (B, num_classes), which mixed images have."""
    return targets.argmax(dim=1) if targets.ndim == 2 else targets


def predicted_classes(logits: Tensor) -> Tensor:
    """(B,) int64: the most probable class of logits (B, num_classes), or of a single logit (B, 1)."""
    return logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
