"""Lightning's TensorBoard logger, with names by which the first tab opens on the curves of training and validation."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger as LightningTensorBoardLogger

OF_TRAINING = ("lr", "gradient_norm", "images_per_second")


class TensorBoardLogger(LightningTensorBoardLogger):
    """TensorBoard sorts its cards by name. What is measured in training stands beside its loss, as `train/lr`.

    The metrics of the test split, a point each, are in the HPARAMS tab alone.
    """

    __signature__ = inspect.signature(LightningTensorBoardLogger)  # the settings that it takes are Lightning's

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        shown = {f"train/{name}" if name in OF_TRAINING else name: value for name, value in metrics.items()}
        super().log_metrics({name: value for name, value in shown.items() if not name.startswith("test/")}, step)
