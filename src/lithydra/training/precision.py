"""The faster precision of a model on this machine: what `trainer.precision=auto` stands for."""

import logging
import math

import lightning as L
import torch
from omegaconf import DictConfig

from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError
from lithydra.training import build
from lithydra.training.classifier import Classifier
from lithydra.training.compute import settle_threads
from lithydra.training.engine import GradientClassifier
from lithydra.training.lightning_inside import CommandLauncher
from lithydra.training.trial import first_batch, flops_of_a_step, seconds_of_a_step, trial

log = logging.getLogger(__name__)

AUTO, FULL, HALF = "auto", "32-true", "bf16-mixed"
WORTH = 0.95  # of the time: bfloat16 rounds, so it must gain something
ROUNDS = 2  # in turn, the faster counts: other work may come upon one of them
MOST_IMAGES = 256  # of a batch that are timed: a large net takes seconds for more


def settle_precision(
    config: DictConfig, data: ImageDataModule, module: Classifier, place: L.Trainer
) -> dict[str, float]:
    """Time a step in float32 and in bfloat16, and set `trainer.precision`, if it is auto, to the faster.

    Where bfloat16 has been chosen for a CPU, and is slower there, that is said.

    Returns:
        Seconds of a step of up to `MOST_IMAGES` images, by precision; empty where nothing was timed.

    Raises:
        ConfigError: Several processes would each time for themselves.
    """
    chosen, kind = config.trainer.precision, build.device(config).type
    if chosen == AUTO:
        config.trainer.precision = FULL
    elif chosen not in (HALF, "bf16") or kind != "cpu":
        return {}
    if chosen == AUTO and place.world_size > 1 and not isinstance(place.strategy.launcher, CommandLauncher):
        raise ConfigError("trainer.precision=auto: each process would measure for itself; say which")
    has_bf16 = kind == "cpu" or (kind == "cuda" and torch.cuda.is_bf16_supported())
    if not has_bf16 or not isinstance(module, GradientClassifier) or (chosen != AUTO and place.world_size > 1):
        return {}
    seconds: dict[str, float] = {}
    try:
        for precision in (FULL, HALF) * ROUNDS:
            config.trainer.precision = precision
            seconds[precision] = min(seconds.get(precision, math.inf), _seconds_of_a_step(config, data, module))
    except (RuntimeError, ValueError, IndexError):  # model and data do not fit together: the dry run says how
        config.trainer.precision = FULL if chosen == AUTO else chosen
        return {}
    faster = HALF if seconds[HALF] < WORTH * seconds[FULL] else FULL
    times = ", ".join(f"{1000 * value:.3g} ms in {precision}" for precision, value in seconds.items())
    told = f"A step of {min(data.batch_size, MOST_IMAGES)} images takes {times}"
    if chosen == AUTO:
        log.info("%s: training in %s", told, faster)
    elif seconds[HALF] > seconds[FULL]:
        log.warning("%s: bfloat16 is slower here; trainer.precision=auto takes the faster", told)
    config.trainer.precision = faster if chosen == AUTO else chosen
    return seconds


def _seconds_of_a_step(config: DictConfig, data: ImageDataModule, module: Classifier) -> float:
    place = build.place(config)
    whole = first_batch(data, place)
    batch = whole._replace(**{key: getattr(whole, key)[:MOST_IMAGES] for key in ("images", "labels", "positions")})
    with trial(module, data, place) as (copied, _):
        settle_threads(config.accelerator.threads, flops_of_a_step(copied, batch), place=place)
        return seconds_of_a_step(copied, batch)
