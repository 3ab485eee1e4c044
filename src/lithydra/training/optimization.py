"""Learning rate, optimizer, parameter groups and scheduler: from the config to torch's objects."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lithydra.errors import ConfigError
from lithydra.models.layers import head_name
from lithydra.training.instantiate import make, naming

# Settings of a scheduler that are learning rates, and that torch takes one of for each group of parameters.
ABSOLUTE_LRS = ("max_lr", "min_lr")

# Makes both for a module, its net, and a number of optimizer steps an epoch.
Optimization = Callable[[nn.Module, nn.Module, int], tuple[Optimizer, LRScheduler | None]]


def optimization(config: DictConfig, backbone_lr_factor: float) -> Optimization:
    """What makes the optimizer and the scheduler, once the module is on its device.

    Args:
        backbone_lr_factor: Times lr, for all of the net but its head.
    """

    def make_both(module: nn.Module, net: nn.Module, steps_per_epoch: int) -> tuple[Optimizer, LRScheduler | None]:
        optimizer = make_optimizer(config, module, net, backbone_lr_factor)
        return optimizer, make_scheduler(config, optimizer, steps_per_epoch)

    return make_both


def make_optimizer(config: DictConfig, module: nn.Module, net: nn.Module, backbone_lr_factor: float) -> Optimizer:
    """The optimizer of the module's trainable parameters, fused where torch can."""
    groups = parameter_groups(module, net, backbone_lr_factor)
    partial = make(config, "optimizer")
    can_fuse = "fused" in inspect.signature(partial.func).parameters and "fused" not in config.optimizer
    fused = can_fuse and groups[0]["params"][0].device.type in ("cpu", "cuda")
    parameters = groups[0]["params"]
    if len(groups) > 1 or groups[0]["lr_factor"] != 1:
        parameters = [{**group, "lr": config.optimizer.lr * group["lr_factor"]} for group in groups]
    with naming("optimizer"):
        return partial(parameters, **({"fused": True} if fused else {}))


def parameter_groups(module: nn.Module, net: nn.Module, backbone_lr_factor: float) -> list[dict[str, Any]]:
    """The trainable parameters as an optimizer takes them, each group with the factor that its lr has.

    The head comes first: the lr that is logged is the first group's.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    if backbone_lr_factor == 1:
        return [{"params": trained, "lr_factor": 1.0}]
    head = f"{head_name(net)}."
    backbone = {id(p) for name, p in net.named_parameters() if not name.startswith(head)}
    groups = [
        {"params": [p for p in trained if id(p) not in backbone], "lr_factor": 1.0},
        {"params": [p for p in trained if id(p) in backbone], "lr_factor": backbone_lr_factor},
    ]
    return [group for group in groups if group["params"]]


def make_scheduler(config: DictConfig, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler | None:
    """None without a scheduler. The value `total` becomes the run's length in the scheduler's intervals."""
    if config.scheduler.get("_target_") is None:
        return None
    total = _length(config, steps_per_epoch)
    node = {k: total if v == "total" else v for k, v in config.scheduler.items() if k != "interval"}
    factors = [group.get("lr_factor", 1.0) for group in optimizer.param_groups]
    if factors != [1.0]:
        node |= {key: [node[key] * factor for factor in factors] for key in ABSOLUTE_LRS if key in node}
    with naming("scheduler"):
        scheduler = make(OmegaConf.create({"scheduler": node}), "scheduler")(optimizer)
    if (length := getattr(scheduler, "total_steps", total)) < total:
        raise ConfigError(f"scheduler.total_steps={length}: shorter than the run, which has {total}")
    return scheduler


def _length(config: DictConfig, steps_per_epoch: int) -> int:
    """Of the run, in the scheduler's intervals: optimizer steps or epochs."""
    trainer = config.trainer
    steps = steps_per_epoch * (1 if trainer.get("fast_dev_run") else trainer.max_epochs)
    if trainer.max_steps > 0:
        steps = min(steps, trainer.max_steps)
    return steps if config.scheduler.get("interval") == "step" else -(-steps // steps_per_epoch)


def step_after_epoch(scheduler: LRScheduler, score: float | None) -> None:
    """`score` is what a plateau scheduler watches, None in an epoch that was not validated."""
    if not isinstance(scheduler, ReduceLROnPlateau):
        scheduler.step()
    elif score is not None:
        scheduler.step(score)


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """(): Euclidean norm of the gradient of all parameters together."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip(parameters: Sequence[Tensor], largest: float, algorithm: str) -> None:
    """Clip the gradient to its largest norm, or each of its values to the largest absolute value."""
    (nn.utils.clip_grad_norm_ if algorithm == "norm" else nn.utils.clip_grad_value_)(parameters, largest)
