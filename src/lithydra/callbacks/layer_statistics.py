"""How large activations and gradients are, layer by layer: where a deep net squashes them, or lets them vanish."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lithydra.files import append_rows, write_rows
from lithydra.methods.base import evaluating
from lithydra.models.layers import ACTIVATIONS
from lithydra.run.directory import LAYER_COLUMNS, RunDir
from lithydra.training.checkpoint import run_dir
from lithydra.training.engine import GradientClassifier


class LayerStatistics(L.Callback):
    """Measures on the first training images, before training (epoch 0) and after each epoch, into layers.csv.

    Quantities: `gradient`, the root mean square of the loss's gradient by a layer's weight; `mean` and `std` of an
    activation function's output, the std over images and averaged over units; `weight_std` of a layer's weight. As
    metrics: `layers/gradient_ratio`, the first layer's gradient as a part of the last one's; `layers/activation_std` of
    the last hidden layer; `layers/weight_std`, the mean over layers; all also as `start_…` before training.

    Args:
        num_images: how many of the training images to measure on.
    """

    needs_gradients = True  # which a net that learns without them does not have

    def __init__(self, num_images: int = 512) -> None:
        self.num_images = num_images
        self.start: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GradientClassifier)
        if trainer.is_global_zero:
            _keep_until(run_dir(trainer), trainer.current_epoch if self.start else -1)
        if not self.start:
            self.start = {f"layers/start_{name}": value for name, value in self._measure(trainer, pl_module, 0).items()}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GradientClassifier)
        metrics = self._measure(trainer, pl_module, trainer.current_epoch + 1)
        pl_module.report({**self.start, **{f"layers/{name}": value for name, value in metrics.items()}})

    def _measure(self, trainer: L.Trainer, module: GradientClassifier, epoch: int) -> dict[str, float]:
        images, labels = _probe(trainer, self.num_images, module.device)
        rows = measure(module, images, labels)
        if trainer.is_global_zero:
            append_rows(run_dir(trainer).layers, LAYER_COLUMNS, [{"epoch": epoch, **row} for row in rows])
        gradients = [row["value"] for row in rows if row["quantity"] == "gradient"]
        spreads = [row["value"] for row in rows if row["quantity"] == "std"]
        widths = [row["value"] for row in rows if row["quantity"] == "weight_std"]
        metrics = {"gradient_ratio": gradients[0] / gradients[-1] if gradients[-1] else 0.0}
        metrics["weight_std"] = sum(widths) / len(widths)
        return metrics | ({"activation_std": spreads[-1]} if spreads else {})

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]


def measure(module: GradientClassifier, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """The quantities of each layer, from input to output. Changes nothing in `module`; dropout is off."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output.detach()))
        for name, layer in module.net.named_modules()
        if type(layer) in ACTIVATIONS.values()
    ]
    weights = {
        name: layer.weight
        for name, layer in module.net.named_modules()
        if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) and layer.weight.requires_grad  # pyright: ignore
    }
    try:
        with evaluating(module), torch.enable_grad():
            loss = module.loss(module.net(module.normalization(images)), labels)
            gradients = torch.autograd.grad(loss, list(weights.values()))
    finally:
        for hook in hooks:
            hook.remove()
    rows = [
        _row(name, "gradient", g.float().square().mean().sqrt()) for name, g in zip(weights, gradients, strict=True)
    ]
    rows += [_row(name, "weight_std", weight.detach().float().std()) for name, weight in weights.items()]
    for name, output in outputs.items():
        values = output.float().transpose(0, 1).flatten(1)  # units x images
        rows += [_row(name, "mean", values.mean()), _row(name, "std", values.std(dim=1).mean())]
    return rows


def _row(layer: str, quantity: str, value: Tensor) -> dict[str, Any]:
    return {"layer": layer, "quantity": quantity, "value": value.item()}


def _probe(trainer: L.Trainer, num_images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    split = trainer.datamodule.train  # pyright: ignore[reportAttributeAccessIssue]
    rows = torch.arange(min(num_images, len(split)))
    images, labels = next(iter(split.batches([rows])))
    return images.to(device), labels.to(device)


def _keep_until(run: RunDir, epoch: int) -> None:
    """Drop what a run wrote after the checkpoint that it goes on from."""
    if run.layers.exists():
        write_rows(run.layers, LAYER_COLUMNS, [row for row in run.read_layers() if int(row["epoch"]) <= epoch])
