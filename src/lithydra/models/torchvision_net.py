"""Any of torchvision's classification networks, with a head for the data's classes."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torchvision import models

from lithydra.errors import ConfigError, nearest
from lithydra.models import layers

NUM_IMAGENET_CLASSES = 1000
SIDES = (8, 16, 32, 64, 96, 128, 224, 384, 512, 518)  # pixels; tried when a network refuses the data's images


class TorchvisionNet(nn.Module):
    """Lets a network for colour images take grey ones too."""

    channels_last = True

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) float to logits (B, num_classes)."""
        return self.net(x.expand(-1, 3, -1, -1))


def torchvision_net(
    *, in_shape: tuple[int, int, int], num_classes: int, name: str, weights: str | None = None
) -> TorchvisionNet:
    """Builds one of torchvision's networks, with torchvision's own initialization.

    Args:
        in_shape: (C, H, W) of one image; C is 1 or 3.
        num_classes: number of logits.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        weights: DEFAULT or another name of torchvision's weights for this network; None for random ones. The head
            is random also then, unless the data have ImageNet's 1,000 classes.

    Raises:
        ConfigError: unknown name, images that the network cannot take, or weights that cannot be had.
    """
    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(
            f"model.name={name}: torchvision has no such classification network.{nearest(str(name), names)}"
        )
    if in_shape[0] not in (1, 3):
        raise ConfigError(f"model.name={name}: images must have 1 or 3 channels, the data's have {in_shape[0]}.")
    chosen = None if weights is None else find_weights(name, weights)
    net = models.get_model(name, num_classes=num_classes, **options(name, chosen))
    check_image_size(net, name, *in_shape[1:])
    if weights is not None:
        load_backbone(net, name, weights)
    return TorchvisionNet(net)


def find_weights(name: str, weights: str) -> models.WeightsEnum:
    choices = models.get_model_weights(name).__members__
    layers.check_choice("model.weights", weights, choices)
    return choices[weights]


def options(name: str, weights: models.WeightsEnum | None) -> dict[str, bool | int]:
    """What the network itself must be told: no auxiliary outputs, and what its pretrained weights were made for."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True, "transform_input": weights is not None}
    if name.startswith("vit_") and weights is not None:
        return {"image_size": weights.meta["min_size"][0]}
    return {}


def check_image_size(net: nn.Module, name: str, height: int, width: int) -> None:
    """Tries one image, as torchvision does not tell what sizes a network takes."""
    if takes(net, height, width):
        return
    side = next(side for side in SIDES if takes(net, side, side))
    raise ConfigError(
        f"model.name={name} does not take images of {height}x{width}; "
        f"the smallest side that it takes, of {', '.join(map(str, SIDES))}, is {side}: try data.image_size={side}."
    )


@torch.no_grad()
def takes(net: nn.Module, height: int, width: int) -> bool:
    net.eval()
    try:
        net(torch.zeros(1, 3, height, width))
    except (RuntimeError, AssertionError):
        return False
    finally:
        net.train()
    return True


def load_backbone(net: nn.Module, name: str, weights: str) -> None:
    """Copies pretrained weights, all but those of auxiliary heads and of a head with another number of classes."""
    try:
        # torchvision's builder, not the bare file: it renames the keys of old files.
        pretrained = models.get_model(name, weights=weights).state_dict()
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        url = find_weights(name, weights).url
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"model.weights={weights}: neither read from {path} nor downloaded from {url} ({reason}); "
            "put the file there, or use model.weights=null."
        ) from error
    own = net.state_dict()
    for key, value in pretrained.items():
        is_other_head = key in own and value.shape != own[key].shape and len(value) == NUM_IMAGENET_CLASSES
        if key in own and not is_other_head:
            own[key] = value
    net.load_state_dict(own)
