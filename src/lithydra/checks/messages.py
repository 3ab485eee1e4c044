"""One line for each error that a person can mend: ours, and those of Hydra, OmegaConf and YAML."""

import os
import re
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from lithydra.checks.extras import not_installed
from lithydra.checks.unread import TRAINER
from lithydra.errors import LithydraError, first_line, nearest
from lithydra.overrides import choices_of, nodes

# Names that other programs have for it, and what is typed here.
ELSEWHERE = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "nb_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("steps", "num_steps"), "trainer.max_steps"),
    **dict.fromkeys(("learning_rate", "base_lr"), "lr"),
    **dict.fromkeys(("bs", "batch", "train_batch_size"), "data.batch_size"),
    **dict.fromkeys(("workers", "num_threads"), "data.num_workers"),
    **dict.fromkeys(("net", "arch", "network", "backbone"), "model"),
    **dict.fromkeys(("dataset", "datamodule", "data_module"), "data"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("sched", "lr_scheduler"), "scheduler"),
    **dict.fromkeys(("aug", "transform", "transforms"), "augmentation"),
    **dict.fromkeys(("criterion", "loss_fn"), "loss"),
    **dict.fromkeys(("wd", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("gpu", "device", "cuda"), "accelerator=gpu"),
    **dict.fromkeys(("gpus", "num_gpus", "devices"), "trainer.devices"),
    **dict.fromkeys(("amp", "fp16", "bf16", "half"), "trainer.precision"),
    **dict.fromkeys(("ckpt_path", "ckpt", "checkpoint_path", "resume_from_checkpoint"), "resume=RUN_DIRECTORY"),
    **dict.fromkeys(("name", "run_name", "output_dir", "out", "save_dir"), "run=DIRECTORY"),
    **dict.fromkeys(("val_split", "validation_split"), "data.val_fraction"),
    **dict.fromkeys(("img_size", "input_size", "resolution"), "data.image_size"),
    **dict.fromkeys(("clip", "clip_grad", "grad_clip", "max_grad_norm"), "trainer.gradient_clip_val"),
    **dict.fromkeys(("pretrained", "weights"), "init.from=torchvision"),
    "patience": "callbacks=[default,early_stopping] callbacks.early_stopping.patience",
    "ema": "average=ema",
    "callback": "callbacks",
    "random_seed": "seed",
    "task_name": "run=DIRECTORY",
}

# How the names of torchvision's nets begin.
TORCHVISION = re.compile(
    "convnext|densenet|efficientnet|googlenet|inception|maxvit|mnasnet|mobilenet|regnet|resnet|resnext|shufflenet|"
    "squeezenet|swin|vgg|vit|wide_resnet"
)

# Hydra's launchers, by the extra that brings them.
LAUNCHERS = {"submitit_slurm": "slurm", "submitit_local": "slurm", "joblib": "joblib", "ray": "ray", "ray_aws": "ray"}

MENDABLE = (LithydraError, HydraException, OmegaConfBaseException, YAMLError)


def one_line(error: Exception) -> str:
    """One line: the key, the value given, what is allowed, and the nearest valid name."""
    if isinstance(error, LithydraError):
        return str(error)
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        missing = error.missing_cfg_file.removesuffix(".yaml")
        # A choice may lie in a folder, as study=digits/optimizer; of Hydra's own it is the group that does.
        group, _, choice = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            return f"{group}={choice}: {not_installed(LAUNCHERS[choice])}"
        found = [option for option in error.options or () if not option.startswith("_")]
        choices = sorted({*found, *choices_of(group)})  # Hydra has none of a list's, nor those in folders
        hint = nearest(choice, choices)
        if group == "model" and TORCHVISION.match(choice):
            hint = f" torchvision's nets are model=torchvision model.name={choice}"
        return f"{group}={choice}: choose one of {', '.join(choices)}.{hint}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and cause.parent_node is not None:
        return _explain_unknown_key(cause, str(error))
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{os.path.relpath(mark.name)}, line {mark.line + 1}: not YAML: {error.problem}"
    if isinstance(error, OverrideParseException):
        if "=" not in str(error.override):
            return f"{error.override}: not of the form key=value; --help shows what there is"
        return f"{error.override}: not of the form key=value. {first_line(error, lines=2)}"
    return first_line(cause if isinstance(cause, OmegaConfBaseException) else error, lines=2)


def _explain_unknown_key(cause: OmegaConfBaseException, message: str) -> str:
    override = re.search(r"Could not override '([^']*)'", message)
    key = override.group(1) if override else str(cause.full_key)
    parent: Any = cause.parent_node
    prefix, name = str(parent._get_full_key("") or ""), str(cause.key)
    if prefix == "trainer" and name in TRAINER:
        return f"{key}: not taken, {TRAINER[name]}"
    if not prefix and re.split(r"[.=]", ELSEWHERE.get(name, ""))[0] in parent:
        return f"{key}: no such setting. It is {ELSEWHERE[name]} here"
    siblings = [str(k) for k in parent if not str(k).startswith("_")]
    near = nearest(name, siblings)
    if not near:  # the right name at the wrong level
        root: Any = OmegaConf.to_container(parent._get_root(), resolve=False)
        keys = (key for key, _ in nodes({group: node for group, node in root.items() if group != "hydra"}))
        places = [key for key in keys if key.rpartition(".")[2] == name]
        near = f" Did you mean {places[0]}?" if places else ""
    elif prefix:
        near = near.replace("mean ", f"mean {prefix}.")
    allowed = f"; {prefix} has {', '.join(siblings)}" if prefix and not near else ""
    return f"{key}: no such setting{allowed}.{near}"
