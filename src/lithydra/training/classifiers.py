"""From config to classifier: net, loss, normalization, method, metrics, and the weights that it starts from."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchmetrics import Metric

from lithydra.augmentations.chain import Chain
from lithydra.data.base import ImageDataModule
from lithydra.data.splits import Layout
from lithydra.errors import ConfigError
from lithydra.methods.base import Method, Parts
from lithydra.methods.supervised import Supervised
from lithydra.metrics import accuracy
from lithydra.normalization import Normalization
from lithydra.training import transfer
from lithydra.training.averaging import Average
from lithydra.training.classifier import Classifier
from lithydra.training.engine import GradientClassifier
from lithydra.training.instantiate import located, make
from lithydra.training.optimization import optimization
from lithydra.training.statistics import StatisticsClassifier
from lithydra.training.views import VIEWS

log = logging.getLogger(__name__)

# Settings under `trainer` that a classifier carries out.
CLASSIFIER_KEYS = ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "log_every_n_steps")

FIT_IMAGES = 5000  # at most, that a net is fitted to before training

NO_INIT: dict[str, Any] = {"from": None, "freeze": "none", "head": "auto", "backbone_lr_factor": 1.0}


def for_training(config: DictConfig, data: ImageDataModule, load: Callable[[str], Any]) -> Classifier:
    """The LightningModule for `data`, its weights drawn from torch's global generator.

    Args:
        load: A run directory to its trained classifier, for methods that learn from one.
    """
    normalization: Normalization = make(config, "normalization")(data.pixels())
    loss, num_outputs = _loss(config, data.class_counts)
    net = layout(config).of_net(_net_to_train(config, data, num_outputs, normalization))
    method = _method(config)
    augment = augmentation(config, data.image_shape, data.num_classes)
    method.bind(Parts(net, loss, normalization, augment, data.image_shape, list(data.names), load))
    metrics = _metrics(config, data.num_classes)
    evaluated = {"tta": VIEWS[config.get("tta", "none")], "train_metrics": config.train_metrics}
    if hasattr(net, "fit_batch"):
        ignored = ", ".join(_of_gradients(config))
        log.info(f"This model learns from the data's statistics, in one pass. Not used: {ignored}.")
        return StatisticsClassifier(method, data.num_classes, metrics, **evaluated)
    method.setup()
    return GradientClassifier(
        method,
        data.num_classes,
        metrics,
        average=_average(config, net),
        **evaluated,
        optimization=optimization(config, _init(config)["backbone_lr_factor"]),
        scheduler_interval=config.scheduler.get("interval", "epoch"),
        monitor=config.monitor.metric,
        penalties=list(make(config, "regularizer").values()),
        **{key: config.trainer[key] for key in CLASSIFIER_KEYS},
    )


def like(
    config: DictConfig,
    image_shape: tuple[int, int, int],
    class_names: list[str],
    load: Callable[[str], Any] | None = None,
) -> Classifier:
    """The LightningModule of a run, to be filled with its checkpoint's weights: no data are needed.

    Args:
        load: As in `for_training`, where what the method measures by itself is wanted, too.
    """
    normalization = Normalization([0.0] * image_shape[0], [1.0] * image_shape[0])
    loss, num_outputs = _loss(config, [1] * len(class_names))  # the checkpoint has what was made of the counts
    net = layout(config).of_net(make(config, "model", in_shape=image_shape, num_classes=num_outputs))
    method = _method(config)
    augment = augmentation(config, image_shape, len(class_names))
    method.bind(Parts(net, loss, normalization, augment, image_shape, class_names, load or _refuse_to_load))
    if load is not None and type(method).evaluation is not Method.evaluation:
        method.setup()
    kind = StatisticsClassifier if hasattr(net, "fit_batch") else Classifier
    return kind(method, len(class_names), _metrics(config, len(class_names)), tta=VIEWS[config.get("tta", "none")])


def augmentation(config: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> Chain:
    """All that are chosen, in the order given."""
    return Chain(_each(config, "augmentation", image_shape=image_shape, num_classes=num_classes))


def layout(config: DictConfig) -> Layout:
    """Of images and weights: channels_last where the net wants it."""
    if config.get("module"):
        return Layout()
    target = located("model", config.model._target_)
    views_weights = str(config.optimizer._target_).endswith("LBFGS")  # as vectors, which that format does not allow
    wanted = getattr(target, "channels_last", False) and not views_weights
    return Layout(channels_last=wanted and bool(config.accelerator.channels_last))


def _of_gradients(config: DictConfig) -> list[str]:
    """The settings that only training by gradients uses: those that every run has, and others that are set."""
    trainer = config.trainer
    chosen = {
        "scheduler": config.scheduler.get("_target_"),
        "augmentation": config.augmentation,
        "regularizer": config.regularizer,
        "optimizer_groups": config.get("optimizer_groups"),
        "average": config.get("average"),
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches > 1,
    }
    return ["lr", "optimizer", "trainer.max_epochs", *(key for key, value in chosen.items() if value)]


def _loss(config: DictConfig, class_counts: list[int]) -> tuple[nn.Module, int]:
    """The loss, and the number of logits that it takes."""
    loss: nn.Module = _with_facts(config, "loss", class_counts=class_counts)
    num_classes = len(class_counts)
    single_logit = getattr(loss, "single_logit", False)
    if single_logit and num_classes != 2:
        raise ConfigError(
            f"loss={type(loss).__name__}: for two classes, not {num_classes}; data.classes=[2,6] keeps two"
        )
    return loss, 1 if single_logit else num_classes


def _net_to_train(
    config: DictConfig, data: ImageDataModule, num_outputs: int, normalization: Normalization
) -> nn.Module:
    """The net with the weights that it starts from.

    A net with a method `fit_to` is given some of the training images, normalized, before anything is trained.
    """
    init, weights = _init(config), config.model.get("weights")
    pretrained = init["from"] == transfer.TORCHVISION and "weights" in config.model and weights is None
    options = {"weights": "DEFAULT"} if pretrained else {}
    net: nn.Module = make(config, "model", in_shape=data.image_shape, num_classes=num_outputs, **options)
    if hasattr(net, "fit_batch") and init != NO_INIT:
        raise ConfigError("init: this model learns from the data's statistics, it takes no weights and freezes none")
    if not config.resume:  # the checkpoint has them, and the source may be gone
        if hasattr(net, "fit_to"):
            images = data.pixels()
            net.fit_to(normalization(images[:: -(-len(images) // FIT_IMAGES)]))  # pyright: ignore[reportCallIssue]
        source = transfer.source(net, init["from"], weights)
        if source is not None:
            transfer.take(net, source, init["head"], data.names)
    transfer.freeze(net, init["freeze"])
    return net


def _init(config: DictConfig) -> dict[str, Any]:
    """The settings of `init`; those of a config from before there were any say nothing."""
    return {**NO_INIT, **OmegaConf.to_container(config.get("init") or OmegaConf.create(), resolve=True)}  # pyright: ignore


def _method(config: DictConfig) -> Method:
    return make(config, "method") if config.get("method") else Supervised()


def _average(config: DictConfig, net: nn.Module) -> Average | None:
    if not config.get("average"):
        return None
    average: Average = make(config, "average")
    average.start(net)
    return average


def _metrics(config: DictConfig, num_classes: int) -> dict[str, Metric]:
    """By name; each gets the class count if its class takes one."""
    if "metrics" not in config:  # of a run from before there was a choice
        return {"acc": accuracy(num_classes)}
    return dict(
        zip(config.metrics, _each(config, "metrics", num_classes=num_classes, validate_args=False), strict=True)
    )


def _each(config: DictConfig, group: str, **facts: Any) -> list[Any]:
    """The parts of a group that holds several, in the order given."""
    return [_with_facts(config, f"{group}.{name}", **facts) for name in config[group]]


def _with_facts(config: DictConfig, key: str, **facts: Any) -> Any:
    """What the node `key` names, given those of `facts` that it takes and that the node does not set."""
    node = OmegaConf.select(config, key)
    taken = inspect.signature(located(key, node._target_)).parameters
    return make(config, key, **{name: fact for name, fact in facts.items() if name in taken and name not in node})


def _refuse_to_load(run: str) -> Any:
    raise ConfigError(f"{run}: a method loads other runs when it trains, in setup()")
