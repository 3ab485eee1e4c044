"""Learning rate, optimizer, parameter groups and scheduler: from the config to torch's objects."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lithydra.errors import ConfigError
from lithydra.models.layers import head_name
from lithydra.training.instantiate import make, naming, refuse_unknown_arguments
from lithydra.training.transfer import matching

# Settings of a scheduler that are learning rates, and that torch takes one of for each group of parameters.
ABSOLUTE_LRS = ("max_lr", "min_lr")

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

Options = Mapping[str, Any]  # of a group of parameters: lr_factor, and arguments of the optimizer

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
    partial = make(config, "optimizer")
    arguments = inspect.signature(partial.func).parameters
    of_head = {"matrices": False} if "matrices" in arguments else {}
    groups = parameter_groups(module, net, backbone_lr_factor, own_options(config, module, net), of_head)
    fused = "fused" in arguments and "fused" not in config.optimizer
    fused = fused and groups[0]["params"][0].device.type in ("cpu", "cuda")
    parameters = groups[0]["params"]
    if len(groups) > 1 or groups[0].keys() != {"params", "lr_factor"} or groups[0]["lr_factor"] != 1:
        parameters = [{**group, "lr": config.optimizer.lr * group["lr_factor"]} for group in groups]
    with naming("optimizer"):
        return partial(parameters, **({"fused": True} if fused else {}))


def parameter_groups(
    module: nn.Module, net: nn.Module, backbone_lr_factor: float, own: Mapping[Tensor, Options], of_head: Options
) -> list[dict[str, Any]]:
    """The trainable parameters as an optimizer takes them: those with the same options are one group.

    Each group has the factor of its lr. The lr that is logged is the first group's, so one of factor 1 comes first.

    Args:
        own: Options of single parameters, before all others; their factors multiply.
        of_head: Options of the net's last layer with weights.
    """
    head, of_net = f"{head_name(net)}.", set(net.parameters())
    groups: dict[str, dict[str, Any]] = {}
    for p, name in names_of(module, net).items():
        if p.requires_grad:
            is_head = p in of_net and name.startswith(head)
            factor = backbone_lr_factor if p in of_net and not is_head else 1
            options = {"lr_factor": 1, **(of_head if is_head else {}), **own.get(p, {})}
            options["lr_factor"] = float(options["lr_factor"] * factor)
            groups.setdefault(str(options), {"params": [], **options})["params"].append(p)
    return sorted(groups.values(), key=lambda group: group["lr_factor"] != 1)


def own_options(config: DictConfig, module: nn.Module, net: nn.Module) -> dict[Tensor, Options]:
    """What `optimizer_groups` says of each parameter; of several groups that have it, the first counts.

    Raises:
        ConfigError: There is no such layer, or the optimizer takes no such option.
    """
    groups: Any = OmegaConf.to_container(config.get("optimizer_groups") or OmegaConf.create(), resolve=True)
    names = names_of(module, net)
    found = {"norms": norms(module), "biases": [p for p, name in names.items() if name.endswith("bias")]}
    words = [*found]
    own: dict[Tensor, Options] = {}
    for group, options in groups.items():
        key, patterns = f"optimizer_groups.{group}", options.pop("parameters")
        arguments = {name: value for name, value in options.items() if name != "lr_factor"}
        refuse_unknown_arguments(key, OmegaConf.create({"_target_": config.optimizer._target_, **arguments}))
        for pattern in patterns:
            if pattern not in found:
                matched = matching(f"{key}.parameters", pattern, [*names.values()], words)
                found[pattern] = [p for p, name in names.items() if name in matched]
            own |= {p: options for p in found[pattern] if p not in own}
    return own


def names_of(module: nn.Module, net: nn.Module) -> dict[Tensor, str]:
    """The name of each parameter: the net's as the net has it, others', of a method for instance, as the module."""
    return {p: name for part in (module, net) for name, p in part.named_parameters()}


def norms(module: nn.Module) -> list[Tensor]:
    """The parameters of all normalization layers."""
    return [p for layer in module.modules() if isinstance(layer, NORMS) for p in layer.parameters(recurse=False)]


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
