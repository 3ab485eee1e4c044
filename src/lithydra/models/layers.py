"""What several networks share: activations, and the range checks of their hyperparameters."""

from collections.abc import Iterable

from torch import Tensor, nn

from lithydra.errors import ConfigError, nearest


class Maxout(nn.Module):
    """The largest of `pieces` linear functions of the input (Goodfellow et al., 2013, "Maxout Networks", section 3).

    The layer before it computes the pieces, so it is `pieces` times as wide: (B, pieces * C, ...) becomes (B, C, ...).
    """

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.pieces, -1)).amax(1)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "maxout": Maxout,
}


def activation(name: str) -> tuple[nn.Module, int]:
    """The activation, and how many inputs it needs for each output: the factor by which the layer before it is wider.

    Raises:
        ConfigError: there is no activation of this name.
    """
    check_choice("model.activation", name, ACTIVATIONS)
    module = ACTIVATIONS[name]()
    return module, module.pieces if isinstance(module, Maxout) else 1


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in list(choices):
        raise ConfigError(f"{key}={value}: choose one of {', '.join(choices)}.{nearest(str(value), choices)}")


def check_image_side(setting: str, in_shape: tuple[int, int, int], smallest: int) -> None:
    """Refuses images that a network's strides and pools would shrink to nothing; sides in pixels."""
    _, height, width = in_shape
    if min(height, width) < smallest:
        raise ConfigError(
            f"{setting}: images of {height}x{width} are too small, as the smallest image is {smallest}x{smallest}; "
            f"try data.image_size={smallest + smallest % 2}."
        )


def head_name(net: nn.Module) -> str:
    """The dotted name of the net's last layer with weights."""
    names = [
        name for name, module in net.named_modules() if name and any(True for _ in module.parameters(recurse=False))
    ]
    return "head" if "head" in names else names[-1]
