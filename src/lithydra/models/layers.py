"""What several networks share: activations, and the range checks of their hyperparameters."""

from collections.abc import Iterable, Sequence

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


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={value}: must be {allowed}.")


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in list(choices):
        raise ConfigError(f"{key}={value}: choose one of {', '.join(choices)}.{nearest(str(value), choices)}")


def check_widths(key: str, widths: Sequence[int], length: int | None = None) -> None:
    is_list = isinstance(widths, Sequence) and all(isinstance(width, int) and width > 0 for width in widths)
    count = "" if length is None else f"{length} "
    require(is_list and length in (None, len(widths)), key, widths, f"a list of {count}positive integers")


def check_kernel_size(key: str, value: int) -> None:
    # An even kernel has no middle, so no padding keeps the size of the image.
    require(isinstance(value, int) and value >= 1 and value % 2 == 1, key, value, "an odd integer of at least 1")


def check_dropout(value: float) -> None:
    require(isinstance(value, int | float) and 0 <= value < 1, "model.dropout", value, "a probability in [0, 1)")


def check_batch_norm(eps: float, momentum: float) -> None:
    require(isinstance(eps, int | float) and eps > 0, "model.batch_norm_eps", eps, "a number above 0")
    in_range = isinstance(momentum, int | float) and 0 <= momentum <= 1
    require(in_range, "model.batch_norm_momentum", momentum, "a number in [0, 1]")


def check_image_side(setting: str, in_shape: tuple[int, int, int], smallest: int) -> None:
    """Refuses images that a network's strides and pools would shrink to nothing; sides in pixels."""
    _, height, width = in_shape
    if min(height, width) < smallest:
        raise ConfigError(
            f"{setting}: images of {height}x{width} are too small, as the smallest image is {smallest}x{smallest}; "
            f"try data.image_size={smallest + smallest % 2}."
        )
