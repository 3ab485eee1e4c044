"""Arrays that a process loads once for itself and all processes that it forks. A single run keeps nothing here."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

_kept: dict[Hashable, Any] | None = None


def share() -> None:
    """Start caching what is loaded."""
    global _kept
    _kept = {}


def once(key: Hashable, make: Callable[[], T]) -> T:
    """`make()`, cached by `key` after `share()`.

    Cached arrays are read-only: a data set that changed them in place would change them again in each job.
    """
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = _protected(make())
    return _kept[key]


def key_of(value: object) -> Hashable | None:
    """The key under which this very object is cached, or None. Its address is no key: after the object is freed,
    another one may have it."""
    return next((key for key, kept in (_kept or {}).items() if kept is value), None)


def _protected(value: T) -> T:
    """With its arrays read-only."""
    for part in value if isinstance(value, tuple) else ():
        if hasattr(part, "flags"):
            part.flags.writeable = False
    return value
