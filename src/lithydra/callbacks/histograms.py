"""Histograms of a net by layer: parameters, activations and gradients, after each epoch. One callback each.

They look at a fixed batch of training images in evaluation mode, so they leave training
as it is, bit for bit.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from lithydra.callbacks.look_inside import writers
from lithydra.data.base import ImageDataModule
from lithydra.run.histograms import Histogram, add_histograms
from lithydra.training.checkpoint import run_dir
from lithydra.training.classifier import Classifier

# Lower and upper bound of each activation that has both; within 1 % of a bound it is saturated.
BOUNDS: dict[type[nn.Module], tuple[float, float]] = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}
SATURATION = 0.01
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, *BOUNDS)


class LayerHistograms(Checkpoint):  # a Checkpoint, so that it runs when the epoch is complete
    """Writes `kind/NAME` to TensorBoard and to histograms.npz: once before training, then after each epoch.

    Args:
        bins: Of each histogram, between its smallest and its largest value.
        num_images: Of the fixed batch.
    """

    kind: ClassVar[str]

    def __init__(self, bins: int = 64, num_images: int = 256) -> None:
        self.bins, self.num_images = bins, num_images

    def tensors(self, module: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What to draw, by the name of the layer or parameter."""
        raise NotImplementedError

    def scalars(self, module: Classifier, tensors: dict[str, Tensor]) -> dict[str, float]:
        """What to write beside the histograms."""
        return {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._record(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._record(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def _record(self, trainer: L.Trainer, module: L.LightningModule, epoch: int) -> None:
        assert isinstance(module, Classifier)
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        images, labels = first_images(data, self.num_images, module.device)
        modes = {layer: layer.training for layer in module.modules()}
        module.eval()
        tensors = {name: t.detach().float().cpu() for name, t in self.tensors(module, images, labels).items()}
        for layer, training in modes.items():
            layer.training = training
        found = {f"{self.kind}/{name}": histogram(t, self.bins) for name, t in tensors.items()}
        add_histograms(run_dir(trainer), epoch, found)
        values = self.scalars(module, tensors)
        for writer in writers(trainer):
            for name, tensor in tensors.items():
                writer.add_histogram(f"{self.kind}/{name}", tensor, trainer.global_step)
        module.write(values, trainer.global_step)


class ParameterHistograms(LayerHistograms):
    """The weights and biases."""

    kind = "parameter"

    def tensors(self, module: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return dict(module.net.named_parameters())


class GradientHistograms(LayerHistograms):
    """The gradient of the fixed batch's loss by each trained parameter, with its Euclidean norm."""

    kind = "gradient"

    def tensors(self, module: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        named = {name: p for name, p in module.net.named_parameters() if p.requires_grad}
        if not named:
            return {}
        with torch.enable_grad():
            loss = module.loss(module.net(module.normalization(images)), labels)
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        return {name: g for name, g in zip(named, gradients, strict=True) if g is not None}

    def scalars(self, module: Classifier, tensors: dict[str, Tensor]) -> dict[str, float]:
        return {f"gradient_norm/{name}": float(t.norm()) for name, t in tensors.items()}


class ActivationHistograms(LayerHistograms):
    """What each activation function gives for the fixed batch, with the shares of dead and of saturated units.

    A unit is an output of a linear layer, or a channel of a convolution. It is dead if it gives the same value for
    every image (and place), and saturated if on average it is within 1 % of a bound of its function (sigmoid, tanh).
    """

    kind = "activation"

    def tensors(self, module: Classifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            return lambda layer, inputs, output: outputs.update({name: output})

        handles = [
            layer.register_forward_hook(keep(name))
            for name, layer in module.net.named_modules()
            if isinstance(layer, ACTIVATIONS)
        ]
        with torch.no_grad():
            module.net(module.normalization(images))
        for handle in handles:
            handle.remove()
        return outputs

    def scalars(self, module: Classifier, tensors: dict[str, Tensor]) -> dict[str, float]:
        values: dict[str, float] = {}
        for name, output in tensors.items():
            values[f"dead/{name}"] = dead_share(output)
            if bounds := BOUNDS.get(type(module.net.get_submodule(name))):
                values[f"saturated/{name}"] = saturated_share(output, *bounds)
        return values


def first_images(data: ImageDataModule, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first `count` images (B, C, H, W) uint8 of a fixed permutation of the training split, and their labels."""
    assert data.train is not None
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(data.seed))[:count]
    images, labels = next(data.train.batches([order.to(data.train.indices.device)]))
    return images.to(device), labels.to(device)


def histogram(values: Tensor, bins: int) -> Histogram:
    numbers = values.double().numpy()  # the edges between float32 that are almost equal need it
    low, high = numbers.min(), numbers.max()
    margin = max(0.5, 1e-6 * abs(low)) if low == high else 0.0
    counts, edges = np.histogram(numbers, bins, range=(low - margin, high + margin))
    return Histogram(counts.astype(np.int64), edges.astype(np.float32))


def _by_unit(output: Tensor) -> Tensor:
    """(units, values of each) of (B, units, ...)."""
    return output.transpose(0, 1).flatten(1)


def dead_share(output: Tensor) -> float:
    units = _by_unit(output)
    return float((units.amax(1) == units.amin(1)).float().mean())


def saturated_share(output: Tensor, low: float, high: float) -> float:
    margin = SATURATION * (high - low)
    mean_distance = _by_unit(torch.minimum(output - low, high - output)).mean(1)
    return float((mean_distance < margin).float().mean())
