"""What is used of Lightning's inside, none of which it promises to keep: tried with Lightning 2.6.6.

An upgrade is tried here first: `make test` tells which of these no longer holds.
"""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.strategies.launchers.launcher import _Launcher
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.trainer import call

BaseLauncher = _Launcher
CommandLauncher = _SubprocessScriptLauncher  # starts the command line once more for each further device
set_num_threads = _set_num_threads_if_needed


def starts_copies(trainer: L.Trainer) -> bool:
    """Whether further processes would be copies of this one, as in a notebook."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def set_launcher(trainer: L.Trainer, launcher: BaseLauncher) -> None:
    trainer.strategy._launcher = launcher


def handle_no_signals(trainer: L.Trainer) -> None:
    """Lightning's own handler of SIGTERM talks to the other processes in the middle of whatever they exchange."""
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None


def call_hook(module: L.LightningModule, name: str, *arguments: Any) -> None:
    """Call a hook of all callbacks, then of the module, as Lightning's automatic optimization does."""
    call._call_callback_hooks(module.trainer, name, *arguments)
    call._call_lightning_module_hook(module.trainer, name, *arguments)


def step_counter(trainer: L.Trainer) -> Any:
    """What `trainer.global_step` is read from: has `increment_ready` and `increment_completed`."""
    return trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """What Lightning calls the step when it logs; it adds one after each `training_step`."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step - 1


def forget_metrics(trainer: L.Trainer) -> None:
    """What was logged so far: an epoch that is not validated has no metrics of validation."""
    trainer._logger_connector._callback_metrics.clear()


def logged_sums(trainer: L.Trainer) -> dict[str, list[Any]]:
    """What `self.log` has added up in the training epoch at hand: by Lightning's key, a sum and a number of images.

    Lightning itself forgets it where a run stops; of a torchmetrics Metric that is logged, the module has the state.
    """
    results = trainer.fit_loop.epoch_loop._results
    kept = {key: result for key, result in results.items() if result.is_tensor and result.meta.on_epoch}
    return {key: [result.value, getattr(result, "cumulated_batch_size", None)] for key, result in kept.items()}


def add_logged_sums(trainer: L.Trainer, before: dict[str, list[Any]]) -> None:
    """Take what was added up before into what has been logged since, and out of `before`."""
    results: Any = trainer.fit_loop.epoch_loop._results
    for key in [key for key in before if key in results]:
        result, (value, size) = results[key], before.pop(key)
        if result.meta.is_max_reduction or result.meta.is_min_reduction:
            result.value = result.meta.reduce_fx(value.to(result.value.device), result.value)
        else:
            result.value = value.to(result.value.device) + result.value
        if size is not None:
            result.cumulated_batch_size = size.to(result.value.device) + result.cumulated_batch_size


def take_plateaus(trainer: L.Trainer) -> Callable[[], None]:
    """Have Lightning step no plateau scheduler at an epoch's end; returns what steps them."""
    loop: Any = trainer.fit_loop.epoch_loop
    update = loop.update_lr_schedulers

    def others(interval: str, update_plateau_schedulers: bool) -> None:
        if interval == "step" or not update_plateau_schedulers:
            update(interval, update_plateau_schedulers=update_plateau_schedulers)

    def step() -> None:
        if loop._num_ready_batches_reached():
            update("epoch", update_plateau_schedulers=True)

    loop.update_lr_schedulers = others
    return step


def expired_limit(timer: Timer) -> float | None:
    """The timer's limit in seconds, once it is over."""
    limit = timer._duration
    return limit if limit is not None and (timer.time_remaining() or 0) <= 0 else None


def finished_epochs(trainer: L.Trainer) -> int:
    return trainer.fit_loop.epoch_progress.current.processed  # pyright: ignore[reportAttributeAccessIssue]


def set_loops(checkpoint: dict[str, Any], progress: dict[str, Any], trainer: L.Trainer) -> None:
    """Rewrite the loops' state in `checkpoint`: `progress` as Lightning counts it, with this trainer's chunks."""
    epochs, batches = progress["epochs"], progress["batches"]
    chunks = batches // trainer.datamodule.steps_per_execution  # pyright: ignore[reportAttributeAccessIssue]
    loop = trainer.fit_loop.state_dict()
    started = epochs + 1 if batches else epochs
    for count in ("total", "current"):
        loop["epoch_progress"][count] = {
            "ready": started,
            "started": started,
            "processed": epochs,
            "completed": epochs,
        }
        done = dict.fromkeys(("ready", "started", "processed", "completed"), chunks)
        loop["epoch_loop.batch_progress"][count] = done
        steps = {"ready": progress["steps"], "completed": progress["steps"]}
        loop["epoch_loop.manual_optimization.optim_step_progress"][count] = steps
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = progress["steps"]
    loop["state_dict"]["combined_loader"] = [{"epoch": epochs, "position": batches}]
    checkpoint["loops"] = {"fit_loop": loop}
