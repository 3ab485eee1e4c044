"""A table of the net's layers."""

import lightning as L
from rich.console import Console
from rich.table import Table
from torch import nn

from lithydra.training.classifier import Classifier


class NetSummary(L.Callback):
    """Prints each layer with its output shape for one image, and its number of parameters, before training."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        known = isinstance(pl_module, Classifier)
        net, shapes = (pl_module.net, pl_module.layer_shapes) if known else (pl_module, {})
        Console(highlight=False).print(summary_table(net, shapes))


def summary_table(net: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Table:
    """`shapes` holds the output shape of each layer, without the batch dimension."""
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in net.parameters()) - trainable
    caption = f"{trainable:,} parameters" + (f" to train, {frozen:,} frozen" if frozen else "")
    table = Table("layer", "type", "output", "parameters", title=type(net).__name__, caption=caption)
    table.columns[3].justify = "right"
    for name, layer in net.named_modules():
        if name and not list(layer.children()):
            parameters = list(layer.parameters())
            count = f"{sum(p.numel() for p in parameters):,}" if parameters else ""
            if parameters and not any(p.requires_grad for p in parameters):
                count = f"frozen {count}"
            table.add_row(name, type(layer).__name__, " x ".join(map(str, shapes.get(name, ()))), count)
    return table
