"""From config to objects: the only module that calls hydra.utils.instantiate."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from lithydra.checks.combinations import refused_in_several
from lithydra.checks.rules import shown
from lithydra.data.base import ImageDataModule
from lithydra.data.splits import Layout
from lithydra.errors import ConfigError, LithydraError, nearest
from lithydra.normalization import Normalization
from lithydra.run.checkpoints import AtomicCheckpointIO
from lithydra.run.directory import PROFILE
from lithydra.training import transfer
from lithydra.training.batch_hooks import refuse_unsupported, steps_beside
from lithydra.training.checkpoint import RunCheckpoint
from lithydra.training.classifier import Classifier
from lithydra.training.dry_run import dry_run, steps_per_execution
from lithydra.training.engine import GradientClassifier
from lithydra.training.interrupts import Interrupts, StopOnSignal
from lithydra.training.record import RunRecord
from lithydra.training.statistics import StatisticsClassifier
from lithydra.training.targets import located

log = logging.getLogger(__name__)

# Settings under `trainer` that GradientClassifier and the loaders carry out; Lightning's Trainer gets the others.
CLASSIFIER_KEYS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "log_every_n_steps")
LOADER_KEYS = ("limit_train_batches", "steps_per_execution")

MIXED = {"16": "16-mixed", "bf16": "bf16-mixed"}  # names of before, of which Lightning warns

# Settings of a scheduler that are learning rates, and that torch takes one of for each group of parameters.
ABSOLUTE_LRS = ("max_lr", "min_lr")

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
        optimizer=_optimizer(config),
        scheduler=_scheduler(config),
        scheduler_interval=config.scheduler.get("interval", "epoch"),
        monitor=config.monitor.metric,
        penalties=list(make(config, "regularizer").values()),
        augmentation=_augmentation(config, image_shape, num_classes),
        backbone_lr_factor=_init(config)["backbone_lr_factor"],
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
        source: transfer.Source | None = None
        if init["from"] == transfer.TORCHVISION or (
            init["from"] is None and weights and hasattr(net, "torchvision_weights")
        ):
            setting = f"model.weights={weights}" if init["from"] is None else "init.from=torchvision"
            source = transfer.from_torchvision(net, setting)
        elif init["from"] is not None:
            source = transfer.from_run(Path(init["from"]))
        if source is not None:
            transfer.take(net, source, init["head"], data.names)
    transfer.freeze(net, init["freeze"])
    return net


def _init(config: DictConfig) -> dict[str, Any]:
    """The settings of `init`; those of a config from before there were any say nothing."""
    return {**NO_INIT, **OmegaConf.to_container(config.get("init") or OmegaConf.create(), resolve=True)}  # pyright: ignore


def _optimizer(config: DictConfig) -> Callable[[list[dict[str, Any]]], Optimizer]:
    def build(groups: list[dict[str, Any]]) -> Optimizer:
        make_optimizer = make(config, "optimizer")
        can_fuse = "fused" in inspect.signature(make_optimizer.func).parameters
        fused = can_fuse and "fused" not in config.optimizer and groups[0]["params"][0].device.type in ("cpu", "cuda")
        parameters = groups[0]["params"]
        if len(groups) > 1 or groups[0]["lr_factor"] != 1:
            parameters = [{**group, "lr": config.optimizer.lr * group["lr_factor"]} for group in groups]
        return _explained("optimizer", lambda: make_optimizer(parameters, **({"fused": True} if fused else {})))

    return build


def _scheduler(config: DictConfig) -> Callable[[Optimizer, int], Any] | None:
    """None without a scheduler. The value `total` becomes the run's length in the scheduler's intervals."""
    if config.scheduler.get("_target_") is None:
        return None

    def build(optimizer: Optimizer, steps_per_epoch: int) -> Any:
        trainer = config.trainer
        steps = steps_per_epoch * (1 if trainer.get("fast_dev_run") else trainer.max_epochs)
        if trainer.max_steps > 0:
            steps = min(steps, trainer.max_steps)
        total = steps if config.scheduler.get("interval") == "step" else -(-steps // steps_per_epoch)
        node = {k: total if v == "total" else v for k, v in config.scheduler.items() if k != "interval"}
        factors = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
        if factors != [1.0]:
            node |= {key: [node[key] * factor for factor in factors] for key in ABSOLUTE_LRS if key in node}
        settled = OmegaConf.create({"scheduler": node})
        scheduler = _explained("scheduler", lambda: make(settled, "scheduler")(optimizer))
        length = getattr(scheduler, "total_steps", total)
        if length < total:
            raise ConfigError(f"scheduler.total_steps={length}: shorter than the run, which has {total}")
        return scheduler

    return build


def _augmentation(config: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module | None:
    if config.augmentation.get("_target_") is None:
        return None
    return make(config, "augmentation", image_shape=image_shape, num_classes=num_classes)


def place(config: DictConfig) -> L.Trainer:
    """A bare Trainer: Lightning's word on how many processes there are, and whether this is the main one.

    Raises:
        ConfigError: The settings of `trainer` do not work here.
    """
    bare: L.Trainer = _explained(
        "trainer", lambda: L.Trainer(**_trainer_settings(config), logger=False, plugins=_cluster())
    )
    if isinstance(bare.strategy.launcher, _MultiProcessingLauncher):
        raise ConfigError(f"trainer.devices={config.trainer.devices}: one in a notebook; python train.py has several")
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportAssignmentType]
    if bare.world_size > 1 and (problems := [*refused_in_several(plain)]):
        raise ConfigError("\n".join(problems))
    return bare


def try_out(config: DictConfig, data: ImageDataModule, module: Classifier, bare: L.Trainer) -> None:
    """One step on a copy: refuses what does not fit together, and settles how many steps go into an execution."""
    for key in ("callbacks", "logger"):  # these are made when there is a run directory
        _refuse_unknown_arguments(key, config[key])
    _refuse_less_than_a_batch(config, data)
    if bare.world_size > 1 and isinstance(module, StatisticsClassifier):
        raise ConfigError(f"model: {type(module.net).__name__} learns in one process; trainer.devices=1")
    refuse_unsupported(callbacks := _targets(config, "callbacks"))
    module.layer_shapes, seconds = dry_run(module, data, device(config), bare)
    steps = steps_per_execution(config.trainer, seconds)
    data.steps_per_execution = steps_beside(callbacks, steps, config.trainer.steps_per_execution)


def _refuse_less_than_a_batch(config: DictConfig, data: ImageDataModule) -> None:
    """A part of a split's batches that comes to none."""
    assert data.train is not None and data.test is not None
    splits = {"train": (len(data.train), data.batch_size), "test": (len(data.test), data.eval_batch_size)}
    if data.val is not None:
        splits["val"] = (len(data.val), data.eval_batch_size)
    for split, (num_images, batch_size) in splits.items():
        part, count = config.trainer.get(f"limit_{split}_batches"), -(-num_images // batch_size)
        if isinstance(part, float) and int(part * count) < 1:
            key = "data.batch_size" if split == "train" else "data.eval_batch_size"
            raise ConfigError(
                f"trainer.limit_{split}_batches={part}: less than one of {count} batches; a smaller {key} makes more"
            )


def _targets(config: DictConfig, key: str) -> dict[str, Any]:
    """The class or function that makes each part of a group, by the part's dotted key."""
    targets = {f"{key}.{name}": node._target_ for name, node in config[key].items()}
    return {name: located(name, target) for name, target in targets.items()}


def _cluster() -> list[Any]:
    """Where SLURM has started one task for a run on several devices, the others are started here, not by it."""
    return [LightningEnvironment()] if os.environ.get("SLURM_NTASKS") == "1" else []


def _trainer_settings(config: DictConfig) -> dict[str, Any]:
    """What Lightning's Trainer gets of the group `trainer`."""
    others = {str(key): value for key, value in config.trainer.items() if key not in (*CLASSIFIER_KEYS, *LOADER_KEYS)}
    return others | {"precision": MIXED.get(str(config.trainer.precision), config.trainer.precision)}


def device(config: DictConfig) -> torch.device:
    """Where there will be computed, asked before there is a trainer."""
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
) -> L.Trainer:
    """The Trainer with its callbacks and loggers; `directory` is the run's."""
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
    callbacks = [
        *chosen.values(),
        RunRecord(),
        keeper,
        StopOnSignal(interrupts, keeper),
    ]
    _name_loggers(config, directory)
    loggers = list(make(config, "logger").values())
    if config.compile:
        module.net.compile()  # in place: the checkpoint's keys stay as they are
    trainer = _explained(
        "trainer",
        lambda: L.Trainer(
            **settings,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=directory,
            plugins=[AtomicCheckpointIO(), *_cluster()],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            log_every_n_steps=1,  # the classifier writes to the loggers itself
            use_distributed_sampler=False,  # the loaders divide the batches themselves
        ),
    )
    if settings.get("profiler") and trainer.profiler.filename is None:  # it would tell a log that nobody reads
        trainer.profiler.dirpath, trainer.profiler.filename = directory, PROFILE
    return trainer


def _name_loggers(config: DictConfig, directory: Path) -> None:
    """Give loggers the run's directory and name, where their class takes them and nothing else has been said."""
    facts = {"save_dir": str(directory), "dir": str(directory), "name": directory.name, "run_name": directory.name}
    for key, target in _targets(config, "logger").items():
        node = config.logger[key.rpartition(".")[2]]
        for name in facts.keys() & inspect.signature(target).parameters.keys():
            if node.get(name) is None:
                OmegaConf.update(node, name, facts[name], force_add=True)


def make(config: DictConfig, key: str, **arguments: Any) -> Any:
    """Instantiate the group `key`. Raises ConfigError that names the group and says what its target refused."""
    node = OmegaConf.create(OmegaConf.to_container(config[key], resolve=True))
    _refuse_unknown_arguments(key, node)
    return _explained(key, lambda: _plain_partials(instantiate(node, _convert_="all", **arguments)))


def _refuse_unknown_arguments(key: str, node: Any) -> None:
    """Of `node`, and of each of its parts: a target that is none, and a setting that its target does not take."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        _refuse_unknown_arguments(f"{key}.{name}", node[name])
    if node.get("_target_") is None:
        return
    target = located(key, node._target_)
    parameters = dict(inspect.signature(target).parameters)
    unknown = sorted(str(name) for name in node.keys() - parameters.keys() if not str(name).startswith("_"))
    rest = [name for name, parameter in parameters.items() if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    if unknown and rest:
        if target is not TensorBoardLogger:
            return
        from torch.utils.tensorboard import SummaryWriter  # gets the rest, and only when something is written

        parameters |= inspect.signature(SummaryWriter).parameters
    known = [name for name in parameters if name not in rest]
    for name in unknown:
        if name not in known:
            hint = nearest(name, known) or f" ~{key}.{name} drops what a recipe has set"
            raise ConfigError(f"{key}.{name}={shown(node[name])}: {target.__name__} takes {', '.join(known)}.{hint}")


def _plain_partials(built: Any) -> Any:
    """Hydra's own partial checks its target at each call, at 0.1 ms: too long for a penalty in the hot path."""
    if isinstance(built, dict):
        return {key: _plain_partials(value) for key, value in built.items()}
    return partial(built.func, *built.args, **built.keywords) if isinstance(built, partial) else built


def _explained(key: str, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, LithydraError):
            raise cause from None
        reason = cause if cause is not None and not isinstance(cause, InstantiationException) else error
        raise ConfigError(f"{key}: {_first_line(reason)}") from error
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        if isinstance(error, LithydraError):
            raise
        raise ConfigError(f"{key}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _layout(config: DictConfig) -> Layout:
    """Of images and weights: channels_last where the net wants it."""
    target = located("model", config.model._target_)
    views_weights = str(config.optimizer._target_).endswith("LBFGS")  # as vectors, which that format does not allow
    wanted = getattr(target, "channels_last", False) and not views_weights
    return Layout(channels_last=wanted and bool(config.accelerator.channels_last))
