"""Ends a run whose monitored metric has stopped improving."""

from typing import Any

import lightning as L
from lightning.pytorch import callbacks

from lithydra.training.teller import teller


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, which looks at the epochs that have the metric; a resumed run's own settings count.

    With `trainer.check_val_every_n_epoch=2`, `patience` counts the epochs that were validated.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor in teller(trainer).epoch_metrics and not self._should_skip_check(trainer):
            self._run_early_stopping_check(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The epoch is looked at when it has ended."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
