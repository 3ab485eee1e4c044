"""Imports that the garbage collector stays out of."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Import torch and what needs it in here: what there is by the end is never visited by the garbage collector.

    They make half a million objects that stay. Visiting them over and over while they become more is a fifth of the
    time that the import takes, and each full collection later visits them once more. For a process of our own: of
    what a notebook has by then, nothing that becomes garbage in a circle would ever be freed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else triton says that it has leaked what is frozen then
        gc.enable()
