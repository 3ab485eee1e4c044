"""Any of torchvision's classification networks, with a head for the data's classes."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torchvision import models

from lithydra.errors import ConfigError, nearest
from lithydra.models import layers

SIDES = (8, 16, 32, 64, 96, 128, 224, 384, 512, 518)  # pixels; tried when a network refuses the data's images


class TorchvisionNet(nn.Module):
    """Lets a network for colour images take grey ones too."""

    channels_last = True

    def __init__(self, net: nn.Module, name: str, weights: str | None) -> None:
        super().__init__()
        self.net, self.name, self.weights = net, name, weights

    def torchvision_weights(self, setting: str) -> dict[str, Tensor]:
        """Pretrained weights by name, those of auxiliary heads left out; `setting` is what a refusal names."""
        pretrained = read_weights(self.name, self.weights or "DEFAULT", setting)
        own = self.net.state_dict()
        return {f"net.{key}": value for key, value in pretrained.items() if key in own}

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) float to logits (B, num_classes)."""
        return self.net(x.expand(-1, 3, -1, -1))


def torchvision_net(
    *, in_shape: tuple[int, int, int], num_classes: int, name: str, weights: str | None = None
) -> TorchvisionNet:
    """Builds one of torchvision's networks, with torchvision's own random initialization.

    Args:
        in_shape: (C, H, W) of one image; C is 1 or 3.
        num_classes: number of logits.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        weights: DEFAULT or another name of torchvision's weights for this network, which are to be loaded into it
            afterwards (`torchvision_weights`); None for random ones.

    Raises:
        ConfigError: unknown name, or images that the network cannot take.
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
    return TorchvisionNet(net, name, weights)


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


def read_weights(name: str, weights: str, setting: str) -> dict[str, Tensor]:
    """torchvision's pretrained weights, from its cache or downloaded."""
    try:
        # torchvision's builder, not the bare file: it renames the keys of old files.
        return models.get_model(name, weights=weights).state_dict()
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        url = find_weights(name, weights).url
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{setting}: neither read from {path} nor downloaded from {url} ({reason}); "
            f"put the file there, or use {setting.partition('=')[0]}=null."
        ) from error
