"""Imports the modules that the process before it had imported, and ends: the memory that libraries alone take."""

import contextlib
import importlib

from .result import read_result, write_result

if __name__ == "__main__":
    for name in read_result()["modules"]:
        with contextlib.suppress(Exception):  # a name that only its package can make, or a plugin without its library
            importlib.import_module(name)
    write_result()
