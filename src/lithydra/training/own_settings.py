"""Settings that a LightningModule of a person's own gets, and those that would not reach it."""

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf

from lithydra.overrides import CONF
from lithydra.training.instantiate import located

WAY = "; a parameter of that name in its constructor would get it"


def received(config: DictConfig, offered: dict[str, Any]) -> dict[str, Any]:
    """Of what is offered, what the constructor has a parameter for and the config leaves open."""
    taken = inspect.signature(located("module", config.module._target_)).parameters
    return {name: value for name, value in offered.items() if name in taken and name not in config.module}


def unreceived(config: DictConfig, offered: dict[str, Any]) -> Iterator[str]:
    """A line for each choice that the module does not get: of what is its own, and of optimizer, lr and scheduler."""
    got, name, usual = received(config, offered), config.module._target_.rpartition(".")[2], _usual("optimizer")
    for group in ("model", "loss", "metrics", "method"):
        if config.get(group) not in (None, _usual(group)):
            yield f"{group}: {name} has its own, and would not see the one that was chosen"
    if "optimizer" not in got:
        if {key: value for key, value in config.optimizer.items() if key != "lr"} != usual["optimizer"]:
            yield f"optimizer={config.optimizer._target_}: {name} takes no optimizer{WAY}"
        elif config.lr not in (usual["lr"], got.get("lr"), config.module.get("lr")):
            yield f"lr={config.lr}: {name} takes neither lr nor optimizer{WAY}"
    if config.scheduler.get("_target_") is not None and got.get("scheduler") is None:
        why = f"{name} takes no scheduler{WAY}"
        if "scheduler" in got:
            why = "of data of one's own it is not known how many batches an epoch has; the module makes its own"
        yield f"scheduler={config.scheduler._target_}: {why}"


@cache
def _usual(group: str) -> dict[str, Any]:
    """The file of the choice that conf/ makes where nobody does; of `optimizer`, with `lr` beside it."""
    defaults = OmegaConf.load(CONF / "train.yaml").defaults
    name = next(entry[group] for entry in defaults if OmegaConf.is_dict(entry) and group in entry)
    usual: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    if group == "optimizer":
        del usual["optimizer"]["lr"]
    return usual


def by_hand(config: DictConfig, module: L.LightningModule) -> Iterator[str]:
    """A line for each setting that Lightning carries out only where it calls the optimizer itself."""
    for key, usual in {"gradient_clip_val": None, "accumulate_grad_batches": 1}.items():
        if not module.automatic_optimization and config.trainer[key] != usual:
            name = type(module).__name__
            yield f"trainer.{key}={config.trainer[key]}: {name} optimizes by hand, and would have to do this itself"
