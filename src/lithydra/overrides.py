"""Overrides: the command line before Hydra reads it, and what the text of an override stands for. Pandas and torch are
not imported here.

Hydra's grammar has uses of its own for `=`, `,`, brackets and much else that directories are named with: those of a
sweep's runs are `lr=0.1,optimizer=sgd`. Such a path goes to Hydra in quotes.
"""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lithydra.errors import ConfigError, nearest, refuse

PATHS = ("run", "resume", "input", "output", "sweep")  # one path each
TEXTS = ("where", "sort", "columns", "tag", "untag", "note", "delete")  # of scripts/runs.py, taken as they are typed
PATHS_OR_SWEEPS = ("data.path", "init.from", "paths.data", "paths.outputs")  # -m may give several
ONE_OF = {"run": "--run", "multirun": "-m", "cfg": "--cfg", "info": "--info", "shell_completion": "--shell-completion"}
SWEEPERS = ("grid", "optuna")
# Hydra's own settings that would move a run or a sweep away from where it is looked for.
DECIDED = {
    "hydra.run.dir": "run=DIR names a run's directory",
    "hydra.sweep.dir": "a sweep lies in paths.sweeps, under sweep.name",
    "hydra.sweep.subdir": "a sweep names its runs itself",
    "hydra.output_subdir": "a run directory has its config already",
    "hydra.job.chdir": "paths are relative to where the command is typed",
}
OF_SWEEPS = ("sweep", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")
ABOUT_THE_SWEEP = ("sweep", "paths", "hydra")  # these neither vary nor belong to a job
TAGS = ("log",)  # Hydra's tag(): of these, a search knows the meaning
FOLDED = ("seed", "data.fold")  # axes that repeat a setting instead of changing it

DASHED = re.compile(r"--?([A-Za-z]\w*(?:[./-]\w+)*)(?:=(.*))?")  # a setting as other programs take it
PLAIN = re.compile(r"[A-Za-z_./][\w./*?+-]*", re.ASCII)  # Hydra takes it as it is
PLAIN_VALUE = re.compile(r"[^-=][^=]*")  # what `--key` may have behind it
TARGET = re.compile(r"""_target_['"]?\s*:\s*['"]?([\w.]+)""")


def find_conf() -> Path:
    """conf/ beside the script that was started, or beside its folder (scripts/); else that of the package's checkout.

    A package that is installed without `-e` lies elsewhere than the conf/ of the checkout that train.py is run from.
    """
    script = Path(sys.argv[0]).resolve() if sys.argv and sys.argv[0] else Path(__file__)
    package = Path(__file__).resolve().parents[2]
    beside = (script.parent / "conf", script.parent.parent / "conf")
    return next((folder for folder in beside if (folder / "train.yaml").is_file()), package / "conf")


CONF = find_conf()


@cache
def named_targets(conf: Path = CONF) -> frozenset[str]:
    """Every `_target_` that a file of conf/ names: what a person lets lithydra call."""
    return frozenset(name for path in conf.rglob("*.yaml") for name in TARGET.findall(path.read_text(errors="replace")))


def sweep_first(arguments: list[str]) -> list[str]:
    """With -m before the settings: argparse takes these in one piece, and of `lr=0.1 -m seed=0,1` it knows no seed."""
    flags = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return [*flags, *(argument for argument in arguments if argument not in flags)]


def quote_paths(arguments: list[str]) -> list[str]:
    """The settings that are paths or texts in a form that Hydra reads as they were typed; the others as they are."""
    return [_quoted_setting(argument) for argument in arguments]


def quote(path: str) -> str:
    # A backslash stands for itself unless a quote follows.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), path)
    return f"'{escaped}'"


def _quoted_setting(argument: str) -> str:
    key, _, path = argument.partition("=")
    typed = os.path.expanduser(path)  # most shells leave the ~ in run=~/NAME
    names_path = key in (*PATHS, *TEXTS) or (key in PATHS_OR_SWEEPS and os.path.exists(typed))
    if not names_path or not path or PLAIN.fullmatch(path) or path[0] in "'\"" or "${" in path:
        return argument
    return f"{key}={quote(typed)}"


def name_paths(arguments: list[str], key: str) -> list[str]:
    """A directory without a key as the setting `key`; of `runs` any number. It may have = in its name, as a sweep's."""
    paths = [a for a in arguments if not a.startswith(("-", "~", "+")) and ("=" not in a or os.path.isdir(a))]
    if not paths or (key != "runs" and len(paths) > 1) or any(a.startswith(f"{key}=") for a in arguments):
        return arguments
    value = f"[{','.join(map(quote, paths))}]" if key == "runs" else quote(*paths)
    return [*(a for a in arguments if a not in paths), f"{key}={value}"]


def refuse_arguments(verb: str, as_json: bool = False) -> None:
    """Raise ConfigError for what is typed and would do nothing, or something else than it says.

    Args:
        as_json: Whether the result is to be one JSON object.
    """
    parser = get_args_parser()
    for argument, after in zip_longest(sys.argv[1:], sys.argv[2:], fillvalue=""):
        if (match := DASHED.fullmatch(argument)) and not _is_option(argument, parser):
            key, value = match.groups(default=after if PLAIN_VALUE.fullmatch(after) else "VALUE")
            raise ConfigError(f"{argument}: settings have no dashes: {key.replace('-', '_')}={value}")
    arguments = parser.parse_args()
    given = [option for name, option in ONE_OF.items() if getattr(arguments, name)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: one of them at a time; --cfg job shows the config of a single run")
    sweeps, trains = bool(arguments.multirun), verb == "train"
    alone = trains and given in ([], ["--run"])
    problems: list[str | None] = []
    for override in OverridesParser.create().parse_overrides(arguments.overrides):
        problems += [_decided(override), group_problem(override), _sweep_problem(override, sweeps, alone, trains)]
    if as_json and (sweeps or verb == "serve"):
        problems.append(f"--json: not of {'a sweep, whose results scripts/report.py --json tells' if sweeps else verb}")
    if sweeps and not trains:
        problems.append("-m: trains many runs, with train.py; this takes one command at a time")
    refuse(filter(None, problems))


def _is_option(argument: str, parser: ArgumentParser) -> bool:
    """Whether Hydra knows it, also cut short (`--multi`) or with its value behind it (`-cjob`)."""
    options, name = parser._option_string_actions, argument.partition("=")[0]
    behind = any(argument.startswith(o) and options[o].nargs != 0 for o in options if not o.startswith("--"))
    return behind or any(option.startswith(name) for option in options)


def _decided(override: Override) -> str | None:
    key = override.key_or_group
    return f"{key}: not taken, {DECIDED[key]}" if key in DECIDED else None


def group_problem(override: Override) -> str | None:
    """A group's choice that is no name, which Hydra answers with a traceback."""
    group = CONF / override.key_or_group
    if not group.is_dir() or override.is_delete() or override.is_sweep_override():
        return None
    if isinstance(override.value(), (str, list)):
        return None
    return f"{override.input_line}: must be the name of a choice, {', '.join(choices_of(override.key_or_group))}"


def choices_of(group: str) -> list[str]:
    """The names that conf/ has, those in folders too, as study=digits/optimizer."""
    folder = CONF / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("**/[!_]*.yaml"))


def _sweep_problem(override: Override, sweeps: bool, alone: bool, trains: bool) -> str | None:
    """Several values or a sweep's settings without -m, and a sweeper that cannot work."""
    key, line = override.key_or_group, str(override.input_line)
    if not sweeps and override.is_sweep_override():
        several = "; -m trains each of them" if trains else ""
        return f"{line}: several values{several}, {key}=[…] is a list, and quotes make a text of it"
    if alone and any(key == name or key.startswith(f"{name}.") for name in OF_SWEEPS):
        return f"{line}: of a sweep, which -m starts"
    if key == "hydra/sweeper" and not override.is_delete() and override.value() not in SWEEPERS:
        return f"{line}: one of {', '.join(SWEEPERS)}"
    return None


def refuse_axis(override: Override) -> None:
    """Raise ConfigError for what cannot vary from job to job, and for a tag that nothing reads."""
    if override.get_key_element().lstrip("+~").partition(".")[0] in ABOUT_THE_SWEEP:
        raise ConfigError(f"{override.input_line}: a setting of the sweep itself, which has one value for all its jobs")
    for tag in sorted(getattr(override.value(), "tags", set()) - set(TAGS)):
        raise ConfigError(f"{override.input_line}: tag {tag}: one of {', '.join(TAGS)}.{nearest(tag, TAGS)}")


def bare(override: str) -> str:
    """The key of `key`, `+key=value`, `++key=value` or `~key`."""
    return override.partition("=")[0].lstrip("+~")


def split_override(override: str) -> tuple[str, str]:
    """Key and value of `+key=value`."""
    return bare(override), override.partition("=")[2]


def typed(text: object) -> Any:
    """The value that an override's text stands for: a number, true or false, else text without spaces in lists."""
    text = str(text).strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text == "None":
        return "null"
    return text.replace(" ", "") if text.startswith("[") else text.strip("'\"")


def short(value: object) -> str:
    """A value of an axis, of a number its first four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def nodes(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a plain config with its value, groups too."""
    for name, value in node.items():
        yield f"{prefix}{name}", value
        if isinstance(value, dict):
            yield from nodes(value, f"{prefix}{name}.")
