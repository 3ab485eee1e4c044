"""Where a script writes: beside the run, or where `output=` says, for a run that cannot be written to."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lithydra.errors import ConfigError

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}  # of export's formats
# By verb and its settings, where there is no output=.
DEFAULTS: dict[str, Callable[[Any], Path]] = {
    "compare": lambda config: Path(config["paths"]["outputs"]) / "compare.png",
    "explain": lambda config: Path(config["run"]) / "plots" / "explanations.png",
    "export": lambda config: Path(config["run"]) / "export" / f"model{SUFFIXES[config['format']]}",
    "predict": lambda config: Path(config["run"]) / f"predictions.{config['format']}",
}
PICTURES = ("compare", "explain")  # verbs whose output is a picture


def output_of(verb: str, config: Any) -> Path:
    """The file that a verb writes."""
    return Path(config["output"]).expanduser() if config["output"] else DEFAULTS[verb](config)


def output_problem(verb: str, config: dict[str, Any]) -> str | None:
    """Why a verb's file cannot be written, as far as is known before the work is done."""
    path, given = output_of(verb, config), bool(config["output"])
    parents = [parent for parent in path.absolute().parents if os.path.exists(parent)]
    if os.path.isdir(path):
        return f"output={path}: a folder"
    if given and parents[0] != path.absolute().parent:
        return f"output={path}: its folder does not exist"
    if verb in PICTURES and path.suffix != ".png":
        return f"output={path}: a picture, whose name ends with .png"
    if not (os.path.isdir(parents[0]) and os.access(parents[0], os.W_OK)):
        return _unwritable(path, given, "")
    return None


@contextmanager
def writing(config: Any, path: Path) -> Iterator[None]:
    """Make the folder of `path`, and raise ConfigError where `path` cannot be written in the block."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(_unwritable(path, bool(config["output"]), f": {error.strerror or error}")) from error


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The paths' names; where two are the same, with as many folders before them as tell them apart."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _unwritable(path: Path, given: bool, reason: str) -> str:
    advice = "" if given else "; output=FILE puts it elsewhere"
    return f"{'output=' if given else ''}{path}: cannot be written{reason}{advice}"
