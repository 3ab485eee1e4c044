"""Settings that nothing reads, because `+` has put them there or because something else decides."""

from collections.abc import Iterator
from typing import Any

from lithydra.checks.rules import shown
from lithydra.checks.settings import RULES
from lithydra.errors import nearest

# Groups whose settings are read by name; others refuse what they do not know when they are built.
CLOSED = ("monitor", "checkpoint", "accelerator", "paths", "init", "sweep", "lr_find")
# What the data decide.
DECIDED = {
    "model": ("in_shape", "num_classes"),
    "loss": ("class_counts",),
    "augmentation.*": ("image_shape", "num_classes"),
    "metrics.*": ("num_classes",),
}
PARTS = ("augmentation", "metrics", "regularizer", "callbacks", "logger")  # nodes of named nodes, each with a _target_
TRAINER = {
    "callbacks": "the group callbacks does this",
    "logger": "the group logger does this",
    "plugins": "lithydra writes the checkpoints",
    "default_root_dir": "run=DIR does this",
    "num_sanity_val_steps": "one step is always tried out",
    "enable_progress_bar": "callbacks=none does this",
    "enable_checkpointing": "a run always writes checkpoints",
    "val_check_interval": "validation follows each epoch",
    "overfit_batches": "debug=overfit does this",
    "use_distributed_sampler": "the loaders divide the batches themselves",
    "reload_dataloaders_every_n_epochs": "the data stay in memory",
    "barebones": "a run is always recorded",
    "max_time": "trainer.max_seconds does this",
}


def unread(config: dict[str, Any]) -> Iterator[str]:
    """A line for each setting of a config that nothing reads."""
    yield from _of_closed_groups(config)
    yield from _decided(config)
    yield from _parts_without_target(config)
    yield from _of_optimizer_groups(config["optimizer_groups"])
    yield from _of_what_is_not_there(config)
    for name, node in config["callbacks"].items():
        lightnings = isinstance(node, dict) and str(node.get("_target_")).endswith("ModelCheckpoint")
        if lightnings and node.get("train_time_interval"):  # works in automatic optimization alone
            yield f"callbacks.{name}.train_time_interval: does not work here; use checkpoint.every_seconds"
    for key in config["trainer"].keys() & TRAINER.keys():
        yield f"trainer.{key}={shown(config['trainer'][key])}: not taken, {TRAINER[key]}"


def _of_closed_groups(config: dict[str, Any]) -> Iterator[str]:
    for group in CLOSED:
        known = [key.partition(".")[2] for key in RULES if key.startswith(f"{group}.")]
        for key in config.get(group, {}).keys() - set(known):
            there = f"{group} has {', '.join(known)}"
            yield f"{group}.{key}={shown(config[group][key])}: nothing reads it; {there}.{nearest(key, known)}"


def _decided(config: dict[str, Any]) -> Iterator[str]:
    for place, keys in DECIDED.items():
        group, _, parts = place.partition(".")
        nodes = {f"{group}.{name}": node for name, node in config[group].items()} if parts else {group: config[group]}
        for name, node in nodes.items():
            for key in node.keys() & set(keys) if isinstance(node, dict) else ():
                yield f"{name}.{key}={shown(node[key])}: the data decide it"


def _parts_without_target(config: dict[str, Any]) -> Iterator[str]:
    for group in PARTS:
        for key, node in config[group].items():
            if not isinstance(node, dict) or "_target_" not in node:
                yield f"{group}.{key}: has no _target_, so there is nothing to set; {group}=NAME chooses one"


def _of_optimizer_groups(groups: dict[str, Any]) -> Iterator[str]:
    for name, node in groups.items():
        key = f"optimizer_groups.{name}"
        if not isinstance(node, dict) or "parameters" not in node:
            yield f"{key}={shown(node)}: needs parameters, a list of norms, biases and names of layers"
        else:
            for other in sorted(node.keys() & {"lr", "params"}):
                given = f"{key}.{other}={shown(node[other])}"
                yield f"{given}: a group has parameters and lr_factor, which is times lr"


def _of_what_is_not_there(config: dict[str, Any]) -> Iterator[str]:
    for group in ("scheduler", "average", "module"):
        extra = sorted(config[group].keys() - {"_target_", "interval"})
        if config[group].get("_target_") is None and extra:
            key, ways = extra[0], f"{group}=NAME chooses one, ~{group}.{extra[0]} drops what a recipe has set"
            yield f"{group}.{key}={shown(config[group][key])}: there is no {group} to set; {ways}"
