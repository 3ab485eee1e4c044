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
    """What `make` gives; where things are kept, what it gave for this key before, and arrays in it are read-only then:
    a data set that changed them in place would change them again in each job."""
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = _protected(make())
    return _kept[key]


def key_of(value: object) -> Hashable | None:
    """The key that this very object is kept under, None where it is not kept. Its address would not do: it may come
    again once the object is gone, while what is kept stays."""
    return next((key for key, kept in (_kept or {}).items() if kept is value), None)


def _protected(value: T) -> T:
    """With its arrays read-only."""
    for part in value if isinstance(value, tuple) else ():
        if hasattr(part, "flags"):
            part.flags.writeable = False
    return value
