"""lithydra: a research template for image classification on PyTorch Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lithydra.sweep.results import results
    from lithydra.training.loading import load

__all__ = ["load", "results"]


def __getattr__(name: str) -> Any:
    """`load` and `results`, imported when asked for: torch takes seconds, and a typo on the command line must not."""
    if name == "load":
        from lithydra.training.loading import load

        return load
    if name == "results":
        from lithydra.sweep.results import results

        return results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
