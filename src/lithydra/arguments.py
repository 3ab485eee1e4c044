"""Paths on the command line, as a person or a shell's completion types them.

Hydra's grammar has uses of its own for `=`, `,`, brackets and much else that directories are named with: those of a
sweep's runs are `lr=0.1,optimizer=sgd`. Such a path goes to Hydra in quotes.
"""

import os
import re

PATHS = ("run", "resume", "input", "output", "sweep")  # one path each
PATHS_OR_SWEEPS = ("data.path", "init.from", "paths.data", "paths.outputs")  # -m may give several
PLAIN = re.compile(r"[A-Za-z_./][\w./*?+-]*", re.ASCII)  # Hydra takes it as it is


def quote_paths(arguments: list[str]) -> list[str]:
    """The settings that are paths in a form that Hydra reads as they were typed; the others as they are."""
    return [_quoted_setting(argument) for argument in arguments]


def quote(path: str) -> str:
    # A backslash stands for itself unless a quote follows.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), path)
    return f"'{escaped}'"


def _quoted_setting(argument: str) -> str:
    key, _, path = argument.partition("=")
    typed = os.path.expanduser(path)  # most shells leave the ~ in run=~/NAME
    names_path = key in PATHS or (key in PATHS_OR_SWEEPS and os.path.exists(typed))
    if not names_path or not path or PLAIN.fullmatch(path) or path[0] in "'\"" or "${" in path:
        return argument
    return f"{key}={quote(typed)}"
