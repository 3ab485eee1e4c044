"""Arrays that a process loads once for itself and all processes that it forks. A single run keeps nothing here."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_kept: dict[Hashable, Any] | None = None


def share() -> None:
    """From now on, what is loaded is kept."""
    global _kept
    _kept = {}


def once(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives; where things are kept, what it gave for this key before. It must not be changed in place."""
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = make()
    return _kept[key]
