"""Imports the modules that another process had imported, and ends: the memory that libraries alone take."""

import contextlib
import importlib
import json
import sys
from pathlib import Path

if __name__ == "__main__":
    for name in json.loads(Path(sys.argv[1]).read_text())["modules"]:
        with contextlib.suppress(Exception):  # a name that only its package can make, or a plugin without its library
            importlib.import_module(name)
