"""One training step on a copy, before the first epoch: does everything fit together, and what does it cost?"""

import inspect
import logging
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import lightning as L
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from lithydra.checks.combinations import unmeasured
from lithydra.data.base import ImageDataModule
from lithydra.data.loaders import TrainingBatch
from lithydra.errors import ConfigError, first_line
from lithydra.training import own_module
from lithydra.training.batch_hooks import refuse_unsupported, steps_beside
from lithydra.training.classifier import Classifier
from lithydra.training.compute import settle_threads
from lithydra.training.instantiate import refuse_unknown_arguments, targets
from lithydra.training.lightning_inside import CommandLauncher
from lithydra.training.statistics import StatisticsClassifier
from lithydra.training.trial import first_batch, flops_of_a_step, seconds_of_a_step, step, trial

log = logging.getLogger(__name__)

# Long beside the 2 to 4 ms that a chunk costs, short beside an epoch: at a chunk's end the losses are looked at, and
# several processes agree on signals and on saves by time. A single process heeds those at each step.
CHUNK_SECONDS = 0.5
MAX_STEPS = 1024  # bounds the logits that a chunk keeps
LONGEST_TRIAL, TRIAL_SHARE = 5.0, 0.1  # in seconds, and as a part of trainer.max_seconds


def try_out(
    config: DictConfig, data: Any, module: Classifier | L.LightningModule, trainer: L.Trainer, before: int | None = None
) -> list[str]:
    """One step on a copy: refuses what does not fit together.

    Settles on how many threads it is computed, and how many steps go into an execution.

    Args:
        before: Threads of the run that is resumed.

    Returns:
        What an epoch measures, by name.
    """
    for key in ("callbacks", "logger"):  # these are made when there is a run directory
        refuse_unknown_arguments(key, config[key])
    if not isinstance(module, Classifier):
        names = own_module.try_out(config, data, module, trainer)
        refuse_unmeasured(config, names)
        return names
    _refuse_less_than_a_batch(config, data, trainer.world_size)
    if trainer.world_size > 1 and isinstance(module, StatisticsClassifier):
        raise ConfigError(f"model: {type(module.net).__name__} learns in one process; trainer.devices=1")
    if trainer.world_size > 1 and not module.method.divisible:
        what = type(module.method).__name__
        raise ConfigError(f"method: {what} compares the images of a batch, so one process has them; trainer.devices=1")
    refuse_unsupported(callbacks := targets(config, "callbacks"))
    if isinstance(module, StatisticsClassifier):
        _refuse_needs_of_gradients(module, callbacks)
    threads = partial(settle_threads, config.accelerator.threads, before=before, place=trainer)
    budget = config.trainer.get("max_seconds")
    tried = dry_run(module, data, trainer, threads, min(LONGEST_TRIAL, TRIAL_SHARE * budget) if budget else 0.0)
    module.layer_shapes, module.metric_names, module.step_flops, seconds = tried[:4]
    module.val_metrics.expect(tried.means)
    module.test_metrics.expect(tried.means)
    refuse_unmeasured(config, module.metric_names)
    if budget:
        if trainer.world_size > 1 and not isinstance(trainer.strategy.launcher, CommandLauncher):
            raise ConfigError("trainer.max_seconds: each process would measure for itself; say trainer.max_steps")
        _fix_length(config, data, seconds)
    steps = steps_per_execution(config.trainer, seconds)
    data.steps_per_execution = steps_beside(callbacks, steps, config.trainer.steps_per_execution)
    return module.metric_names


def _refuse_needs_of_gradients(module: StatisticsClassifier, callbacks: dict[str, Any]) -> None:
    for name, callback in callbacks.items():
        if getattr(callback, "needs_gradients", False):
            raise ConfigError(f"{name}: measures gradients, and {type(module.net).__name__} learns without them")


def _fix_length(config: DictConfig, data: ImageDataModule, step_seconds: float) -> None:
    """As many optimizer steps as fit into `trainer.max_seconds`: schedules know their end, and resuming is exact."""
    settings = config.trainer
    step_seconds *= settings.accumulate_grad_batches
    fitting = int(settings.max_seconds / step_seconds)
    if not fitting:
        raise ConfigError(f"trainer.max_seconds={settings.max_seconds}: a step alone takes {step_seconds:.2g} s")
    per_epoch = -(-data.num_training_batches // settings.accumulate_grad_batches)
    limit = settings.max_steps if settings.max_steps > 0 else fitting
    settings.max_steps = min(fitting, limit)
    settings.max_epochs = -(-settings.max_steps // per_epoch)
    log.info("%d steps fit into %g seconds: training %d", fitting, settings.max_seconds, settings.max_steps)
    settings.max_seconds = None  # from here on max_steps says it, to the other processes and to a resumed run too


def refuse_unmeasured(config: DictConfig, names: Sequence[str]) -> None:
    """Raise ConfigError where something goes by a metric that the run does not measure."""
    watched = {"monitor.metric": config.monitor.metric}
    watched |= {f"callbacks.{name}.monitor": node.get("monitor") for name, node in config.callbacks.items()}
    for key, metric in watched.items():
        if metric is not None and metric not in names:
            raise ConfigError(unmeasured(key, metric, names))


def measured(copied: Classifier, batch: TrainingBatch) -> list[str]:
    """The metrics of an epoch, training's first. Raises ConfigError for one that is no single number."""
    trained = step(copied, batch)
    names = ["train/loss", *(["train/acc"] if trained is None or trained.logits is not None else [])]
    names += copied.train_metrics.named if trained is None or trained.logits is not None else ()
    names += [f"train/{name}" for name, _ in (trained.means if trained else ())]
    copied.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a single batch does not have, a class for instance
        copied._evaluate(copied.val_metrics, (batch.images, batch.labels))
        values = copied.val_metrics.compute()
    copied.train()
    for name, value in values.items():
        if value.numel() != 1:
            raise ConfigError(f"metrics.{name.rpartition('/')[2]}: gives {value.numel()} numbers, and one is needed")
    return [*names, *values]


def _refuse_less_than_a_batch(config: DictConfig, data: ImageDataModule, world_size: int) -> None:
    """A part of a split's batches that comes to none; of evaluation batches, a process has those of its share alone."""
    assert data.train is not None and data.test is not None
    splits = {"train": (len(data.train), data.batch_size), "test": (len(data.test) // world_size, data.eval_batch_size)}
    if data.val is not None:
        splits["val"] = (len(data.val) // world_size, data.eval_batch_size)
    for split, (num_images, batch_size) in splits.items():
        part, count = config.trainer.get(f"limit_{split}_batches"), max(1, -(-num_images // batch_size))
        if isinstance(part, float) and int(part * count) < 1:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            each = f" in each of {world_size} processes" if world_size > 1 and split != "train" else ""
            limit = f"trainer.limit_{split}_batches={part}"
            raise ConfigError(f"{limit}: less than one of {count} batches{each}; a smaller {key} makes more")


class DryRun(NamedTuple):
    """What some steps of training have shown.

    Attributes:
        shapes: of the output of each layer of the net, without the batch dimension.
        metrics: what an epoch measures, by name.
        flops: of a step of this process.
        seconds: of a step.
        means: what the method measures in evaluation, without the split.
    """

    shapes: dict[str, tuple[int, ...]]
    metrics: list[str]
    flops: int
    seconds: float
    means: list[str]


def dry_run(
    module: Classifier,
    data: ImageDataModule,
    trainer: L.Trainer,
    threads: Callable[[int], None] = lambda flops: None,
    trial_seconds: float = 0.0,
) -> DryRun:
    """Some training steps on a copy of `module` with the first training batch, or with a process's share of it.

    They are on the device, in the precision and for the number of processes of `trainer`.

    Args:
        threads: Called with the operations of a step, before steps are timed.
        trial_seconds: How long steps are timed; their mean then counts, which has what else the machine does in it.

    Raises:
        ConfigError: Net, loss, metrics and data do not fit together.
    """
    batch = first_batch(data, trainer)
    with trial(module, data, trainer) as (copied, _):
        shapes = _record_shapes(copied.net)
        try:
            _refuse_wrong_outputs(copied, batch.images)
            flops = flops_of_a_step(copied, batch)
            threads(flops)
            seconds = seconds_of_a_step(copied, batch, trial_seconds)
            metrics = measured(copied, batch)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"model and data do not fit together: images {tuple(batch.images.shape)}, {data.num_classes} "
                f"classes: {first_line(error)}{_place(error, copied.net)}"
            ) from error
        _try_last_batch(copied, data, batch, trainer.world_size)
    return DryRun(shapes, metrics, flops, seconds, copied.val_metrics.means)


def _refuse_wrong_outputs(copied: Classifier, images: Tensor) -> None:
    """The net must give logits (B, num_classes), or (B, 1) where the loss wants a single one, in both modes."""
    expected = (len(images), 1 if getattr(copied.loss, "single_logit", False) else copied.num_classes)
    for mode in (False, True):
        copied.train(mode)
        with torch.no_grad():
            logits: object = copied(images)
        found = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        if found != expected:
            raise ConfigError(
                f"model: {type(copied.net).__name__} gives {found} for {len(images)} images and {copied.num_classes} "
                f"classes; with this loss it must give {expected}"
            )


def _place(error: BaseException, net: nn.Module) -> str:
    """` (FILE, line N: CODE)`: the last line of the net's own code that an error passed, if it passed any."""
    classes = {type(layer) for layer in net.modules() if not type(layer).__module__.startswith("torch.")}
    files = {inspect.getsourcefile(layer) for layer in classes}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _try_last_batch(copied: Classifier, data: ImageDataModule, batch: TrainingBatch, world_size: int) -> None:
    """An epoch's last batch may be smaller, and a process's share of it; BatchNorm cannot train on a single image."""
    assert data.train is not None
    size = min(data.batch_size, len(data.train) - (data.num_training_batches - 1) * data.batch_size)
    share = max(1, size // world_size)  # the smallest
    if share == len(batch.images):
        return
    try:
        parts = {key: getattr(batch, key)[:share] for key in ("images", "labels", "positions")}
        step(copied, batch._replace(**parts))
    except (RuntimeError, ValueError) as error:
        shared = f", {share} for one of {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"data.batch_size={data.batch_size}: the last batch of the {len(data.train):,} training images has {size}"
            f"{shared}, which the model does not take ({first_line(error)}); choose another batch size"
        ) from error


def _record_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])

        return hook

    for name, layer in net.named_modules():
        layer.register_forward_hook(record(name))
    return shapes


def steps_per_execution(trainer: DictConfig, step_seconds: float) -> int:
    """`trainer.steps_per_execution`, or for `auto` as many steps as take `CHUNK_SECONDS`, up to `MAX_STEPS`."""
    if trainer.get("fast_dev_run"):
        return 1  # Lightning counts calls of training_step
    if trainer.steps_per_execution != "auto":
        return trainer.steps_per_execution
    return max(1, min(MAX_STEPS, round(CHUNK_SECONDS / step_seconds)))
