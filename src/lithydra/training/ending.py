"""Why a run ended, and with which settings more epochs can be trained."""

from inspect import signature
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from omegaconf import DictConfig, OmegaConf

from lithydra.training.instantiate import located
from lithydra.training.lightning_inside import expired_limit
from lithydra.training.resuming import UNLIMITED, laid_out, stoppers
from lithydra.training.statistics import StatisticsClassifier


class Ending(NamedTuple):
    """`stopped` says why a run ended before `trainer.max_epochs`; None where it did not.

    `more` holds the settings that resume it for more epochs, `no_more` why there are none.
    """

    stopped: str | None
    more: list[str] | None
    no_more: str | None = None

    def status(self) -> dict[str, Any]:
        """What status.json has of it."""
        more = " ".join(self.more) if self.more is not None else None
        return {"stopped": self.stopped, "more_epochs": more, "no_more_epochs": self.no_more}


def ending(trainer: L.Trainer, config: DictConfig, chosen: dict[str, L.Callback]) -> Ending:
    """Of a run whose training has ended by itself; `chosen` are the config's callbacks by their keys."""
    epochs, steps, limits = trainer.current_epoch, trainer.global_step, config.trainer
    if isinstance(trainer.lightning_module, StatisticsClassifier):
        return Ending(None, None, f"{type(trainer.lightning_module.net).__name__} learns in one epoch")
    if limits.get("fast_dev_run"):
        return Ending("trainer.fast_dev_run", None, "trainer.fast_dev_run is for trying out")
    if pruned(trainer):
        return Ending("pruned by the search, as one without prospects", [])
    ended_by = {"max_epochs": epochs >= limits.max_epochs, "max_steps": limits.max_steps != UNLIMITED}
    ended_by["max_steps"] &= steps >= limits.max_steps
    if not any(ended_by.values()):
        return _stopped_by_callback(trainer, config, chosen)
    stopped = None if ended_by["max_epochs"] else f"trainer.max_steps={limits.max_steps}"
    if planned := laid_out(config):
        return Ending(stopped, None, f"{planned} was laid out over this run")
    now = {"max_epochs": epochs, "max_steps": steps}
    return Ending(stopped, [f"trainer.{key}={2 * now[key]}" for key, reached in ended_by.items() if reached])


def pruned(trainer: L.Trainer) -> bool:
    """Whether a search has ended the run: its callback has an attribute `pruned`."""
    return any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]


def _stopped_by_callback(trainer: L.Trainer, config: DictConfig, chosen: dict[str, L.Callback]) -> Ending:
    keys = {id(callback): key for key, callback in chosen.items()}  # a person's class may have an == of its own
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        key, name = keys.get(id(callback)), type(callback).__name__
        if isinstance(callback, EarlyStopping) and _has_stopped(callback, trainer.current_epoch):
            reason, setting = _early(callback)
            more = _changed(config, key, setting)
            by = "early stopping" if more else f"early stopping by {name}"
            return Ending(f"{by}: {reason}", more or [])  # without a change, resuming trains an epoch more
        if isinstance(callback, Timer) and (limit := expired_limit(callback)) is not None:
            more = _changed(config, key, f"duration={_duration(max(1, 2 * limit))}")
            stopped = f"{key if more else name}.duration={_duration(limit)} is over"
            return Ending(stopped, more, None if more else f"{key or name} takes no duration")
    return Ending("a callback has asked for it (trainer.should_stop)", [])


def _has_stopped(callback: EarlyStopping, epochs: int) -> bool:
    return callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED and callback.stopped_epoch == epochs - 1


def _changed(config: DictConfig, key: str | None, setting: str) -> list[str] | None:
    """The settings that resume with `setting` of the callback at `key`; None where what is at `key` does not take it.

    It may be a function that makes the callback, or be given the setting by its place in `_args_`.
    """
    if key is None:  # not of the config: an installed package may add callbacks to each Trainer
        return None
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    node = plain["callbacks"][key.partition(".")[2]]
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    try:
        signature(located(key, node["_target_"])).bind(*node.get("_args_", ()), **{**given, setting.split("=")[0]: 0})
    except TypeError:
        return None
    return [f"+{key}.{setting}", *([] if key in stoppers(plain) else ["resume_anyway=true"])]


# The setting that has ended the run, and its value that would not have.
THRESHOLDS = {
    EarlyStoppingReason.STOPPING_THRESHOLD: "stopping_threshold=null",
    EarlyStoppingReason.DIVERGENCE_THRESHOLD: "divergence_threshold=null",
    EarlyStoppingReason.NON_FINITE_METRIC: "check_finite=false",
}


def _early(callback: EarlyStopping) -> tuple[str, str]:
    """Why the callback has stopped the run, and its setting that would not have."""
    if callback.stopping_reason in THRESHOLDS:
        reason = str(callback.stopping_reason_message).removesuffix(" Signaling Trainer to stop.").rstrip(".")
        return reason, THRESHOLDS[callback.stopping_reason]
    best = f"{callback.monitor} did not become better than {float(callback.best_score):.4f}"
    reason = f"{best} in {callback.wait_count} epochs (patience={callback.patience})"
    return reason, f"patience={2 * callback.patience}"


def _duration(seconds: float) -> str:
    """As Lightning reads it: days, hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{rest:02}"
