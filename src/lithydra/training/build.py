"""From config to objects: data, classifier and Trainer."""

import inspect
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lithydra.checks.combinations import refused_in_several
from lithydra.data.base import ImageDataModule
from lithydra.errors import ConfigError
from lithydra.run.checkpoints import AtomicCheckpointIO
from lithydra.run.directory import PROFILE
from lithydra.training import classifiers, own_data, own_module
from lithydra.training.averaging import KeepAverage
from lithydra.training.batch_hooks import steps_beside
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier
from lithydra.training.instantiate import make, naming, targets
from lithydra.training.interrupts import Interrupts, StopOnSignal
from lithydra.training.lightning_inside import starts_copies
from lithydra.training.loading import data, load_classifier
from lithydra.training.metrics_writer import MetricsWriter
from lithydra.training.own_module import OwnModule
from lithydra.training.statistics import StatisticsClassifier

# Settings under `trainer` that the loaders carry out, beside the classifier's; Lightning's Trainer gets the others.
LOADER_KEYS = ("limit_train_batches", "steps_per_execution", "max_seconds")

__all__ = ["classifier", "data", "device", "how_it_trains", "module", "place", "trainer"]

# Names of before, of which Lightning warns; and auto, before it has been settled.
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "auto": "32-true"}

# compile=graph: the net's kernels as they are, replayed as a CUDA graph, one for each shape of a batch.
GRAPHS: dict[str, Any] = {"backend": "cudagraphs", "dynamic": False}


def classifier(config: DictConfig, data: ImageDataModule) -> Classifier:
    """The LightningModule for `data`, its weights drawn from torch's global generator."""
    return classifiers.for_training(config, data, partial(load_classifier, trust=config.trust))


def module(config: DictConfig, data: Any) -> Classifier | L.LightningModule:
    """What is trained: a classifier, or a LightningModule of a person's own, for which data give batches of floats."""
    if not config.get("module"):
        return classifier(config, data)
    own_data.give_floats(config, data)
    return own_module.make_module(config, data)


def place(config: DictConfig) -> L.Trainer:
    """A bare Trainer: Lightning's word on how many processes there are, and whether this is the main one.

    Torch's precision of matrix products is set with it, before a step is timed.

    Raises:
        ConfigError: The settings of `trainer` do not work here.
    """
    torch.set_float32_matmul_precision(config.accelerator.matmul_precision)
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
    others = {
        str(key): value
        for key, value in config.trainer.items()
        if key not in (*classifiers.CLASSIFIER_KEYS, *LOADER_KEYS)
    }
    return others | {"precision": PRECISIONS.get(str(config.trainer.precision), config.trainer.precision)}


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
    config: DictConfig, directory: Path, data: Any, module: Classifier | OwnModule, interrupts: Interrupts
) -> tuple[L.Trainer, dict[str, L.Callback]]:
    """The Trainer with its callbacks and loggers, and those callbacks that the config names, by their keys.

    Args:
        directory: The run's.
        module: What is trained, or of a person's own, what stands beside it.
    """
    _quiet(config)
    settings = _trainer_settings(config)
    if isinstance(module, StatisticsClassifier):
        settings["max_epochs"] = 1
    if isinstance(module, OwnModule):
        settings |= {key: config.trainer[key] for key in classifiers.CLASSIFIER_KEYS}
        if not isinstance(data, ImageDataModule):  # else its loader has fewer batches
            settings["limit_train_batches"] = config.trainer.get("limit_train_batches")
    if isinstance(data, ImageDataModule) and data.val is None:
        settings["limit_val_batches"] = 0
    chosen = {f"callbacks.{name}": callback for name, callback in make(config, "callbacks").items()}
    _name_loggers(config, directory)
    loggers = list(make(config, "logger").values())
    if config.compile and isinstance(module, Classifier):
        _compile(module.net, as_graph=config.compile == "graph")
    with naming("trainer"):
        trainer: Any = L.Trainer(
            **{"log_every_n_steps": 1, **settings},  # a classifier writes to the loggers itself
            callbacks=_around(chosen, config, data, module, interrupts),
            logger=loggers or False,
            default_root_dir=directory,
            plugins=[AtomicCheckpointIO(), *_cluster()],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            use_distributed_sampler=False,  # the loaders divide the batches themselves
        )
    if settings.get("profiler") and trainer.profiler.filename is None:  # it would tell a log that nobody reads
        trainer.profiler.dirpath, trainer.profiler.filename = directory, PROFILE
    return trainer, chosen


def _compile(net: nn.Module, *, as_graph: bool) -> None:
    """In place: the checkpoint's keys stay as they are."""
    net.compile(**GRAPHS if as_graph else {})
    if as_graph:  # whose next replay overwrites its outputs, and logits are kept: of a chunk, of another view
        replay: Any = net._compiled_call_impl
        net._compiled_call_impl = lambda *inputs, **named: replay(*inputs, **named).clone()


def _quiet(config: DictConfig) -> None:
    """Without what Lightning says or looks for and nobody needs."""
    if device(config).type != "cuda":
        # Lightning has torch look for Nvidia's driver through NVML, and torch 2.15 looks at every optimizer step.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    # It saves what it should: the weights after the step, as it does in automatic optimization.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
    warnings.filterwarnings("ignore", message="The number of training batches")  # of a short epoch: there is its mean


def _around(
    chosen: dict[str, L.Callback],
    config: DictConfig,
    data: Any,
    module: Classifier | OwnModule,
    interrupts: Interrupts,
) -> list[L.Callback]:
    """All callbacks in their order: the chosen ones, and round them those of each run."""
    keeper = RunCheckpoint(config.monitor.metric, config.monitor.mode, **config.checkpoint)
    # Once more: a function may have made them, and what they override may depend on their settings.
    if isinstance(module, Classifier):
        data.steps_per_execution = steps_beside(chosen, data.steps_per_execution, config.trainer.steps_per_execution)
        first: list[L.Callback] = [KeepAverage()] if module.average is not None else []  # before what saves
    else:
        first = [module]
    return [*first, *chosen.values(), MetricsWriter(), keeper, StopOnSignal(interrupts, keeper)]


def _name_loggers(config: DictConfig, directory: Path) -> None:
    """Give loggers the run's directory and name, where their class takes them and nothing else has been said."""
    facts = {"save_dir": str(directory), "dir": str(directory), "name": directory.name, "run_name": directory.name}
    for key, target in targets(config, "logger").items():
        node = config.logger[key.rpartition(".")[2]]
        for name in facts.keys() & inspect.signature(target).parameters.keys():
            if node.get(name) is None:
                OmegaConf.update(node, name, facts[name], force_add=True)


def how_it_trains(config: DictConfig, trainer: L.Trainer, data: Any, module: L.LightningModule) -> dict[str, Any]:
    """What decides speed and rounding, as it came out of `auto`; and what a step costs."""
    return {
        "device": str(trainer.strategy.root_device),
        "strategy": type(trainer.strategy).__name__,
        "num_processes": trainer.world_size,
        "precision": trainer.precision,
        "matmul_precision": config.accelerator.matmul_precision,
        "channels_last": isinstance(data, ImageDataModule) and data.layout.channels_last,
        "compile": config.compile,
        "steps_per_execution": getattr(data, "steps_per_execution", 1),
        "parameters": sum(p.numel() for p in module.parameters()),
        "step_flops": getattr(module, "step_flops", None),
        "step_seconds": getattr(module, "step_seconds", None),
    }
