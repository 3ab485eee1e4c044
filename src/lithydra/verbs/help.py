"""`--help` of the verbs beside train: what the script says of itself, and the settings that its file in conf/ has."""

import re
import sys

from rich.console import Console
from rich.table import Table

from lithydra.overrides import CONF

# A line of a verb's file: a group in its defaults list, a setting, or one below the setting before it.
LINE = re.compile(r"(  - |  )?(\w+):(?: (\S+))?(?:  # (.*))?")
LEFT_OUT = ("defaults", "paths")


def print_help(verb: str, config_name: str) -> None:
    """Train's is in conf/hydra/help: Hydra's own would list the groups that only train takes."""
    console = Console(highlight=False, markup=False)
    console.print(sys.modules["__main__"].__doc__ or verb, end="\n\n")
    rows = [] if config_name == "train" else _settings((CONF / f"{config_name}.yaml").read_text())
    table = Table("setting", "", box=None, show_header=False, pad_edge=False)
    for name, default, comment in rows:
        table.add_row(f"{name}=" if default == "???" else f"{name}={default}", comment)
    if rows:
        console.print(table)
    if verb in ("inspect_data", "lr_find"):
        console.print("It takes the settings of train.py: python train.py --help")
    if verb != "serve":
        console.print("--json  the result as one JSON object")


def _settings(text: str) -> list[tuple[str, str, str]]:
    """Name, default and comment of each setting; those that must be given come first."""
    rows: list[tuple[str, str, str]] = []
    above = ""
    for line in text.splitlines():
        if (match := LINE.fullmatch(line)) is None:
            continue
        indent, name, default, comment = match.groups(default="")
        if not default:
            above = f"{name}."
        elif name not in LEFT_OUT:
            rows.append((f"{above if indent == '  ' else ''}{name}", default, comment))
    return sorted(rows, key=lambda row: row[1] != "???")
