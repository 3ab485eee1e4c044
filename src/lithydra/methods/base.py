"""What happens in a training step: the part of training that research changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lithydra.augmentations.chain import Chain
from lithydra.errors import ConfigError
from lithydra.normalization import Normalization


@dataclass(frozen=True)
class Parts:
    """What a method works with.

    Attributes:
        net: What `normalize` gives to logits (B, classes), or (B, 1) with a loss of a single logit.
        loss: Logits and targets, labels (B,) or probabilities (B, classes), to their mean loss ().
        normalize: Images (B, C, H, W), uint8 or float in [0, 1], to what the net takes.
        augment: Images and labels as the data have them, uint8 and (B,) int64, to those to train on, float in [0, 1] or
            still uint8 where nothing is augmented.
        image_shape: (C, H, W).
        class_names: By label.
        load: A run directory to its trained classifier, in evaluation mode: images (B, C, H, W) to logits.
    """

    net: nn.Module
    loss: nn.Module
    normalize: Normalization
    augment: Chain
    image_shape: tuple[int, int, int]
    class_names: list[str]
    load: Callable[[str], Any]


class Method(nn.Module):
    """The loss of a training step. Batches, accumulation, clipping, optimizer, and exact resuming are the engine's.

    A subclass implements `training_loss`; parameters and buffers of its own are trained and saved with the net's.

    Attributes:
        divisible: Whether a batch's loss is the mean over its images, so that several processes may share a batch.
        classifies: Whether the net learns to classify: else loss and metrics of its logits are not evaluated.
    """

    divisible = True
    classifies = True

    net: nn.Module
    loss: nn.Module
    normalize: Normalization
    augment: Chain
    image_shape: tuple[int, int, int]
    class_names: list[str]
    load: Callable[[str], Any]

    def bind(self, parts: Parts) -> None:
        """Take what the step works with: `self.net` and the others. They are the classifier's, not submodules."""
        self.__dict__.update(vars(parts))
        self.means: list[tuple[str, Tensor]] = []

    @contextmanager
    def using(self, net: nn.Module) -> Iterator[None]:
        """With another net, that of averaged weights, in place of the one that is trained."""
        trained, self.__dict__["net"] = self.net, net
        try:
            yield
        finally:
            self.__dict__["net"] = trained

    def setup(self) -> None:
        """Make what depends on the parts: when there will be training, and where `evaluation` is a method's own."""

    def views(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What a step is computed on. Called once a batch, though LBFGS computes its loss several times."""
        return self.augment(images, labels)

    def training_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The loss () to step on, and the logits of `labels` for the training accuracy, if there are any.

        Args:
            images: (B, C, H, W), from `views`.
            labels: (B,) int64, or probabilities (B, classes), from `views`.
        """
        raise NotImplementedError

    def evaluation(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What validation and test measure beside the metrics, by name: means over the batch, ().

        Args:
            images: (B, C, H, W) uint8.
            labels: (B,) int64.
        """
        return {}

    def take_means(self) -> list[tuple[str, Tensor]]:
        """What was logged since the last time."""
        means, self.means = self.means, []
        return means

    def log_mean(self, name: str, value: Tensor) -> None:
        """Record the epoch's mean over images of a batch's mean value (), as `train/NAME`."""
        self.means.append((name, value.detach()))


def as_pixels(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]."""
    return images if images.is_floating_point() else images.float() / 255


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Dropout off, and BatchNorm by its running statistics, which stay; then as it was before."""
    modes = [(layer, layer.training) for layer in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def refuse_other_classes(key: str, path: str, record: dict[str, Any], method: Method) -> None:
    """Raise ConfigError where the run at `path` was trained on other classes, or images of another shape."""
    theirs = record["data"]
    for what, there, here in (
        ("classes", theirs["class_names"], method.class_names),
        ("images of shape", tuple(theirs["image_shape"]), method.image_shape),
    ):
        if there != here:
            raise ConfigError(f"{key}={path}: trained on {what} {there}, and the data have {here}")
