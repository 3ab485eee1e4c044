"""From config to objects: data, classifier and Trainer."""

import inspect
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lithydra.checks.combinations import refused_in_several
from lithydra.data.base import ImageDataModule
from lithydra.data.splits import Layout
from lithydra.errors import ConfigError
from lithydra.normalization import Normalization
from lithydra.run.checkpoints import AtomicCheckpointIO
from lithydra.run.directory import PROFILE
from lithydra.training import transfer
from lithydra.training.batch_hooks import steps_beside
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier
from lithydra.training.instantiate import located, make, naming, targets
from lithydra.training.interrupts import Interrupts, StopOnSignal
from lithydra.training.lightning_inside import starts_copies
from lithydra.training.metrics_writer import MetricsWriter
from lithydra.training.optimization import optimization
from lithydra.training.statistics import StatisticsClassifier

log = logging.getLogger(__name__)

# Settings under `trainer` that GradientClassifier and the loaders carry out; Lightning's Trainer gets the others.
CLASSIFIER_KEYS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "log_every_n_steps")
LOADER_KEYS = ("limit_train_batches", "steps_per_execution")

MIXED = {"16": "16-mixed", "bf16": "bf16-mixed"}  # names of before, of which Lightning warns

NO_INIT: dict[str, Any] = {"from": None, "freeze": "none", "head": "auto", "backbone_lr_factor": 1.0}


def data(config: DictConfig) -> ImageDataModule:
    """The data set, read and divided."""
    module: ImageDataModule = make(config, "data")
    fast_dev_run = int(config.trainer.get("fast_dev_run") or 0)
    module.load(_layout(config), fast_dev_run or config.trainer.get("limit_train_batches"))
    return module


def classifier(config: DictConfig, data: ImageDataModule) -> Classifier:
    """The LightningModule for `data`, its weights drawn from torch's global generator."""
    normalization: Normalization = make(config, "normalization")(data.pixels())
    module = _classifier(config, data.image_shape, data.num_classes, normalization, data)
    if isinstance(module, StatisticsClassifier):
        log.info(
            f"This model learns from the data's statistics, in one pass. Not used: {', '.join(_of_gradients(config))}."
        )
    return module


def _of_gradients(config: DictConfig) -> list[str]:
    """The settings that only training by gradients uses: those that every run has, and others that are set."""
    trainer = config.trainer
    chosen = {
        "scheduler": config.scheduler.get("_target_"),
        "augmentation": config.augmentation.get("_target_"),
        "regularizer": config.regularizer,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
    }
    return ["lr", "optimizer", "trainer.max_epochs", *(key for key, value in chosen.items() if value)]


def classifier_like(config: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> Classifier:
    """The LightningModule of a run, to be filled with its checkpoint's weights: no data are needed."""
    blank = Normalization([0.0] * image_shape[0], [1.0] * image_shape[0])
    return _classifier(config, image_shape, num_classes, blank, None)


def _classifier(
    config: DictConfig,
    image_shape: tuple[int, int, int],
    num_classes: int,
    normalization: Normalization,
    data: ImageDataModule | None,
) -> Classifier:
    loss: nn.Module = make(config, "loss")
    single_logit = getattr(loss, "single_logit", False)
    if single_logit and num_classes != 2:
        raise ConfigError(
            f"loss={type(loss).__name__}: for two classes, not {num_classes}; data.classes=[2,6] keeps two"
        )
    num_outputs = 1 if single_logit else num_classes
    net = _layout(config).of_net(_net(config, image_shape, num_outputs, data))
    if hasattr(net, "fit_batch"):
        return StatisticsClassifier(net, normalization, loss, num_classes)
    if data is None:
        return Classifier(net, normalization, loss, num_classes)
    trainer = config.trainer
    return GradientClassifier(
        net,
        normalization,
        loss,
        num_classes,
        optimization=optimization(config, _init(config)["backbone_lr_factor"]),
        scheduler_interval=config.scheduler.get("interval", "epoch"),
        monitor=config.monitor.metric,
        penalties=list(make(config, "regularizer").values()),
        augmentation=_augmentation(config, image_shape, num_classes),
        **{key: trainer[key] for key in CLASSIFIER_KEYS},
    )


def _net(
    config: DictConfig, image_shape: tuple[int, int, int], num_outputs: int, data: ImageDataModule | None
) -> nn.Module:
    """The net; where it is to be trained from its beginning, with the weights that it starts from."""
    init, weights = _init(config), config.model.get("weights")
    pretrained = init["from"] == transfer.TORCHVISION and "weights" in config.model and weights is None
    options = {"weights": "DEFAULT"} if pretrained else {}
    net: nn.Module = make(config, "model", in_shape=image_shape, num_classes=num_outputs, **options)
    if data is None:
        return net
    if hasattr(net, "fit_batch") and init != NO_INIT:
        raise ConfigError("init: this model learns from the data's statistics, it takes no weights and freezes none")
    if not config.resume:  # the checkpoint has them, and the source may be gone
        source = transfer.source(net, init["from"], weights)
        if source is not None:
            transfer.take(net, source, init["head"], data.names)
    transfer.freeze(net, init["freeze"])
    return net


def _init(config: DictConfig) -> dict[str, Any]:
    """The settings of `init`; those of a config from before there were any say nothing."""
    return {**NO_INIT, **OmegaConf.to_container(config.get("init") or OmegaConf.create(), resolve=True)}  # pyright: ignore


def _augmentation(config: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module | None:
    if config.augmentation.get("_target_") is None:
        return None
    return make(config, "augmentation", image_shape=image_shape, num_classes=num_classes)


def place(config: DictConfig) -> L.Trainer:
    """A bare Trainer: Lightning's word on how many processes there are, and whether this is the main one.

    Raises:
        ConfigError: The settings of `trainer` do not work here.
    """
    with naming("trainer"):
        bare = L.Trainer(**_trainer_settings(config), logger=False, plugins=_cluster())
    if starts_copies(bare):
        raise ConfigError(f"trainer.devices={config.trainer.devices}: one in a notebook; python train.py has several")
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    if bare.world_size > 1 and (problems := [*refused_in_several(plain)]):
        raise ConfigError("\n".join(problems))
    return bare


def _cluster() -> list[Any]:
    """Where SLURM has started one task for a run on several devices, the others are started here, not by it."""
    return [LightningEnvironment()] if os.environ.get("SLURM_NTASKS") == "1" else []


def _trainer_settings(config: DictConfig) -> dict[str, Any]:
    """What Lightning's Trainer gets of the group `trainer`."""
    others = {str(key): value for key, value in config.trainer.items() if key not in (*CLASSIFIER_KEYS, *LOADER_KEYS)}
    return others | {"precision": MIXED.get(str(config.trainer.precision), config.trainer.precision)}


def device(config: DictConfig) -> torch.device:
    """The device to compute on, where there is no trainer to ask."""
    accelerator = config.trainer.accelerator
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu: torch finds no GPU here; accelerator=cpu trains without one")
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return torch.device("mps")
    if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")


def trainer(
    config: DictConfig, directory: Path, data: ImageDataModule, module: Classifier, interrupts: Interrupts
) -> tuple[L.Trainer, dict[str, L.Callback]]:
    """The Trainer with its callbacks and loggers, and those callbacks that the config names, by their keys.

    `directory` is the run's.
    """
    if device(config).type != "cuda":
        # Lightning has torch look for Nvidia's driver through NVML, and torch 2.15 looks at every optimizer step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    # It saves what it should: the weights after the step, as it does in automatic optimization.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    torch.set_float32_matmul_precision(config.accelerator.matmul_precision)
    settings = _trainer_settings(config)
    if isinstance(module, StatisticsClassifier):
        settings["max_epochs"] = 1
    if data.val is None:
        settings["limit_val_batches"] = 0
    keeper = RunCheckpoint(config.monitor.metric, config.monitor.mode, **config.checkpoint)
    chosen = {f"callbacks.{name}": callback for name, callback in make(config, "callbacks").items()}
    # Once more: a function may have made them, and what they override may depend on their settings.
    data.steps_per_execution = steps_beside(chosen, data.steps_per_execution, config.trainer.steps_per_execution)
    callbacks = [*chosen.values(), MetricsWriter(), keeper, StopOnSignal(interrupts, keeper)]
    _name_loggers(config, directory)
    loggers = list(make(config, "logger").values())
    if config.compile:
        module.net.compile()  # in place: the checkpoint's keys stay as they are
    with naming("trainer"):
        trainer: Any = L.Trainer(
            **settings,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=directory,
            plugins=[AtomicCheckpointIO(), *_cluster()],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            log_every_n_steps=1,  # the classifier writes to the loggers itself
            use_distributed_sampler=False,  # the loaders divide the batches themselves
        )
    if settings.get("profiler") and trainer.profiler.filename is None:  # it would tell a log that nobody reads
        trainer.profiler.dirpath, trainer.profiler.filename = directory, PROFILE
    return trainer, chosen


def _name_loggers(config: DictConfig, directory: Path) -> None:
    """Give loggers the run's directory and name, where their class takes them and nothing else has been said."""
    facts = {"save_dir": str(directory), "dir": str(directory), "name": directory.name, "run_name": directory.name}
    for key, target in targets(config, "logger").items():
        node = config.logger[key.rpartition(".")[2]]
        for name in facts.keys() & inspect.signature(target).parameters.keys():
            if node.get(name) is None:
                OmegaConf.update(node, name, facts[name], force_add=True)


def _layout(config: DictConfig) -> Layout:
    """Of images and weights: channels_last where the net wants it."""
    target = located("model", config.model._target_)
    views_weights = str(config.optimizer._target_).endswith("LBFGS")  # as vectors, which that format does not allow
    wanted = getattr(target, "channels_last", False) and not views_weights
    return Layout(channels_last=wanted and bool(config.accelerator.channels_last))


def how_it_trains(config: DictConfig, trainer: L.Trainer, data: ImageDataModule) -> dict[str, Any]:
    """What decides speed and rounding, as it came out of `auto`."""
    return {
        "device": str(trainer.strategy.root_device),
        "strategy": type(trainer.strategy).__name__,
        "num_processes": trainer.world_size,
        "precision": trainer.precision,
        "matmul_precision": config.accelerator.matmul_precision,
        "channels_last": data.layout.channels_last,
        "compile": config.compile,
        "steps_per_execution": data.steps_per_execution,
    }
