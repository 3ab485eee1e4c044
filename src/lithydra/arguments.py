"""The command line before Hydra reads it: paths in its grammar, and what it would take without a word.

Hydra's grammar has uses of its own for `=`, `,`, brackets and much else that directories are named with: those of a
sweep's runs are `lr=0.1,optimizer=sgd`. Such a path goes to Hydra in quotes.
"""

import os
import re
import sys

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lithydra.conf_dir import CONF
from lithydra.errors import ConfigError

PATHS = ("run", "resume", "input", "output", "sweep")  # one path each
PATHS_OR_SWEEPS = ("data.path", "init.from", "paths.data", "paths.outputs")  # -m may give several
HYDRA_OPTIONS = (
    "--config-path",
    "--config-name",
    "--config-dir",
    "--cfg",
    "--package",
    "--info",
    "--experimental-rerun",
)
ONE_OF = {"run": "--run", "multirun": "-m", "cfg": "--cfg", "info": "--info", "shell_completion": "--shell-completion"}
SWEEPERS = ("grid", "optuna")
CONFIG_DIRECTORY = CONF
# Hydra's own settings that would move a run or a sweep away from where it is looked for.
DECIDED = {
    "hydra.run.dir": "run=DIR names a run's directory",
    "hydra.sweep.dir": "a sweep lies in paths.sweeps, under sweep.name",
    "hydra.sweep.subdir": "a sweep names its runs itself",
    "hydra.output_subdir": "a run directory has its config already",
    "hydra.job.chdir": "paths are relative to where the command is typed",
}
OF_SWEEPS = ("sweep", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher")

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


def name_runs(arguments: list[str]) -> list[str]:
    """`RUN RUN …` of compare as its setting `runs`. A directory may have = in its name, as those of a sweep do."""
    runs = [a for a in arguments if not a.startswith(("-", "~", "+")) and ("=" not in a or os.path.isdir(a))]
    if not runs:
        return arguments
    return [*(a for a in arguments if a not in runs), f"runs=[{','.join(map(quote, runs))}]"]


def refuse_arguments(verb: str) -> None:
    """Raise ConfigError for what is typed and would do nothing, or something else than it says."""
    if dashed := [a for a in sys.argv[1:] if re.match(r"--\w+(\.\w+)*=", a) and a.split("=")[0] not in HYDRA_OPTIONS]:
        raise ConfigError(f"{dashed[0]}: settings have no dashes: {dashed[0].lstrip('-')}")
    arguments = get_args_parser().parse_args()
    given = [option for name, option in ONE_OF.items() if getattr(arguments, name)]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: one of them at a time; --cfg job shows the config of a single run")
    overrides = OverridesParser.create().parse_overrides(arguments.overrides)
    sweeps, alone = bool(arguments.multirun), verb == "train" and given in ([], ["--run"])
    problems = [
        problem
        for override in overrides
        for problem in (
            _decided(override),
            group_problem(override),
            _sweep_problem(override, sweeps, alone, verb == "train"),
        )
        if problem
    ]
    if sweeps and verb != "train":
        problems.append("-m: trains many runs, with train.py; this takes one command at a time")
    if problems:
        raise ConfigError("\n".join(problems))


def _decided(override: Override) -> str | None:
    key = override.key_or_group
    return f"{key}: not taken, {DECIDED[key]}" if key in DECIDED else None


def group_problem(override: Override) -> str | None:
    """A group's choice that is no name, which Hydra answers with a traceback."""
    group = CONFIG_DIRECTORY / override.key_or_group
    if not group.is_dir() or override.is_delete() or override.is_sweep_override():
        return None
    if isinstance(override.value(), (str, list)):
        return None
    choices = sorted(str(path.relative_to(group).with_suffix("")) for path in group.glob("**/[!_]*.yaml"))
    return f"{override.input_line}: must be the name of a choice, {', '.join(choices)}"


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
