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


def key_of(value: object) -> Hashable | None:
    """The key that this very object is kept under, None where it is not kept. Its address would not do: it may come
    again once the object is gone, while what is kept stays."""
    return next((key for key, kept in (_kept or {}).items() if kept is value), None)
