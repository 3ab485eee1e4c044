"""lithydra: a research template for image classification on PyTorch Lightning and Hydra."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lithydra.loading import load
    from lithydra.sweep_results import results

__all__ = ["load", "results"]


def __getattr__(name: str) -> Any:
    """`load` and `results`, imported when asked for: torch takes seconds, and a typo on the command line must not."""
    if name == "load":
        from lithydra.loading import load

        return load
    if name == "results":
        from lithydra.sweep_results import results

        return results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
