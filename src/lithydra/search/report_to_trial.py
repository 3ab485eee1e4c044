"""Reports a trial's metric to its search after each epoch, and ends the run where the pruner says so."""

import logging
import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from lithydra.errors import ConfigError
from lithydra.training.teller import teller

log = logging.getLogger(__name__)


class ReportToTrial(Checkpoint):  # a Checkpoint, so that it runs when the epoch's metrics are known
    """Reports `metric` to a trial of an Optuna study; `pruned` says afterwards whether the pruner ended the run.

    Does nothing where the trial has ended, as when its run is resumed by hand, and warns where there is no such trial,
    as when its run has been moved.

    Args:
        storage: As `lithydra.search.optuna_side.storage_address` gives it.
        number: The trial's number.
        pruner: median or hyperband.
        max_epochs: How long a run is that is not pruned.
    """

    def __init__(
        self,
        storage: str,
        number: int,
        metric: str,
        pruner: str,
        max_epochs: int,
        pruner_options: dict[str, Any] | None = None,
    ) -> None:
        self.storage, self.number, self.metric = storage, number, metric
        self.pruner, self.pruner_options, self.max_epochs = pruner, pruner_options or {}, max_epochs
        self.pruned = False
        self._trial: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        from lithydra.search.optuna_side import pruner, running_trial

        try:
            how = pruner(self.pruner, self.max_epochs, self.pruner_options)
            self._trial = running_trial(self.storage, self.number, how)
        except ConfigError as error:
            log.warning("%s. The run goes on by itself: it is not reported to its search, nor pruned.", error)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self._trial is not None:
            value = teller(trainer).epoch_metrics.get(self.metric)
            if value is not None and math.isfinite(value):
                self._trial.report(value, epoch)
            last = trainer.max_epochs is not None and epoch >= trainer.max_epochs
            self.pruned = not last and self._trial.should_prune()
        if trainer.strategy.broadcast(self.pruned):
            self.pruned = trainer.should_stop = True
