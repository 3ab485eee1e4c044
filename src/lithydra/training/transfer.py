"""Transfer learning: starting from trained weights, freezing a part of the net, and an lr of its own for the backbone.

The head is the net's last layer with weights; the backbone is all before it.
"""

import fnmatch
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from lithydra.errors import ConfigError, nearest
from lithydra.models.layers import head_name
from lithydra.run.checkpoints import evaluated_state, load
from lithydra.run.directory import RunDir

log = logging.getLogger(__name__)

TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Source:
    """Trained weights, by the names that they have in the net.

    Attributes:
        setting: what asked for them, as `key=value`.
        kind: what net they are of.
        class_names: what the head's outputs stand for; None if that is not known.
    """

    setting: str
    kind: str
    weights: dict[str, Tensor]
    class_names: list[str] | None = None


def source(net: nn.Module, init_from: str | None, model_weights: str | None) -> Source | None:
    """The weights that `init.from` or `model.weights` asks for; None for neither."""
    if init_from is None:
        asked = model_weights and hasattr(net, "torchvision_weights")
        return from_torchvision(net, f"model.weights={model_weights}") if asked else None
    if init_from == TORCHVISION:
        return from_torchvision(net, "init.from=torchvision")
    return from_run(Path(init_from))


def from_run(path: Path) -> Source:
    """The weights of a run, its best epoch's where there is one, or of a checkpoint file.

    Raises:
        LithydraError: There is no such run or checkpoint, or it is damaged.
    """
    content = load(RunDir.open(path, "init.from").checkpoint() if path.is_dir() else path)
    record = content["record"]
    state = evaluated_state(content["state_dict"])
    weights = {key.removeprefix("net."): value for key, value in state.items() if key.startswith("net.")}
    kind = record["config"]["model"]["_target_"].rpartition(".")[2]
    return Source(f"init.from={path}", kind, weights, record["data"]["class_names"])


def from_torchvision(net: nn.Module, setting: str) -> Source:
    """torchvision's weights for the net, from its cache or downloaded.

    Raises:
        ConfigError: torchvision has none for this net, or they cannot be had.
    """
    weights = getattr(net, "torchvision_weights", None)
    if weights is None:
        raise ConfigError(
            f"{setting}: torchvision has no weights for {type(net).__name__}; "
            "use model=resnet18, or model=torchvision model.name=NAME"
        )
    return Source(setting, "torchvision's net", weights(setting))


def take(net: nn.Module, source: Source, head: str, class_names: Sequence[str]) -> None:
    """Copy the source's weights into the net.

    Args:
        head: auto (anew where the number of classes differs), keep, or replace.
        class_names: Of the data.

    Raises:
        ConfigError: The nets differ; the message names the first layer that does.
    """
    prefix = f"{head_name(net)}."
    own = net.state_dict()
    in_head = [key for key in own if key.startswith(prefix)]
    replaced = head == "replace" or (
        head == "auto" and _num_outputs(own, in_head) != _num_outputs(source.weights, in_head)
    )
    kept = {key: value for key, value in own.items() if not (replaced and key in in_head)}
    for key, value in kept.items():
        _refuse_mismatch(source, key, value, key in in_head)
    for key in source.weights:
        if key not in own:
            raise ConfigError(f"{source.setting}: layer {_layer(key)} of {source.kind} is not in {type(net).__name__}")
    net.load_state_dict({**own, **{key: source.weights[key] for key in kept}})
    log.info(
        "%s: %d of %d tensors taken over, %s", source.setting, len(kept), len(own), _told(source, replaced, class_names)
    )


def _told(source: Source, replaced: bool, class_names: Sequence[str]) -> str:
    if replaced:
        return "the head is new"
    if source.class_names is not None and source.class_names != list(class_names):
        return "the head too, though it was trained for other classes (init.head=replace starts it anew)"
    return "the head too"


def _num_outputs(weights: dict[str, Tensor], keys: list[str]) -> int | None:
    return next((len(weights[key]) for key in keys if key in weights), None)


def _refuse_mismatch(source: Source, key: str, value: Tensor, in_head: bool) -> None:
    theirs = source.weights.get(key)
    if theirs is not None and theirs.shape == value.shape:
        return
    there = f"is missing in {source.kind}" if theirs is None else f"is {_size(theirs)} there and {_size(value)} here"
    hint = "; init.head=replace starts it anew" if in_head else ""
    raise ConfigError(f"{source.setting}: layer {_layer(key)} does not fit: its {key.rpartition('.')[2]} {there}{hint}")


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _layer(key: str) -> str:
    return key.rpartition(".")[0] or key


def freeze(net: nn.Module, what: str | Sequence[str]) -> None:
    """Keep parameters as they are.

    Args:
        what: none, backbone, or names of layers and parameters; `*` stands for anything.

    Raises:
        ConfigError: A name matches nothing, or nothing is left to train.
    """
    if what == "none":
        return
    head = head_name(net)
    parameters = dict(net.named_parameters())
    if what == "backbone":
        frozen = {name for name in parameters if not name.startswith(f"{head}.")}
    else:
        frozen = {name for pattern in what for name in matching("init.freeze", pattern, list(parameters))}
    if len(frozen) == len(parameters):
        raise ConfigError(f"init.freeze={_shown(what)}: nothing is left to train")
    for name in frozen:
        parameters[name].requires_grad_(False)


def matching(key: str, pattern: str, names: Sequence[str], words: Sequence[str] = ()) -> list[str]:
    """The parameters of a layer, or of all layers that a pattern with `*` names.

    Args:
        key: The setting that `pattern` is of.
        names: Of all parameters.
        words: What else could have been said.

    Raises:
        ConfigError: There is no such layer.
    """
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"{pattern}.*")]
    if not found:
        layers = list(dict.fromkeys(_layer(name) for name in names))
        raise ConfigError(
            f"{key}={pattern}: no layer has this name; the layers are {', '.join(layers[:8])}"
            f"{', …' if len(layers) > 8 else ''}.{nearest(pattern, [*words, *layers])}"
        )
    return found


def _shown(what: str | Sequence[str]) -> str:
    return what if isinstance(what, str) else f"[{','.join(what)}]"


def frozen_norms(net: nn.Module) -> list[str]:
    """The BatchNorm layers whose parameters do not train: their running statistics must not move either.

    By name: for trainer.sync_batchnorm, Lightning puts other layers in their place.
    """
    return list(_frozen_norms(net, "", parent_frozen=False))


def _frozen_norms(module: nn.Module, name: str, parent_frozen: bool) -> Iterator[str]:
    parameters = list(module.parameters())
    # A norm without parameters of its own goes with what it stands in.
    frozen = not any(p.requires_grad for p in parameters) if parameters else parent_frozen
    if isinstance(module, _BatchNorm) and frozen:
        yield name
    for key, child in module.named_children():
        yield from _frozen_norms(child, f"{name}.{key}" if name else key, frozen)
