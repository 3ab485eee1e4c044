"""Whose code a config may run. Torch is not imported here.

A config that comes from a file (a checkpoint's, a run's, a sweep's) may be a stranger's, and Hydra calls whatever a
`_target_` names. So each name is asked for first: is it a part of lithydra, torch or torchvision that a config is there
to choose, does the person's own conf/ or command line name it, or have they said `trust=[package]`? Nothing is imported
from elsewhere to find out.
"""

import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lithydra.errors import ConfigError
from lithydra.overrides import named_targets

MODULE = "torch.nn.modules.module.Module"
CALLBACK = "lightning.pytorch.callbacks.callback.Callback"
FUNCTION = "a public function"
BUILDER = "a function that torchvision.models lists"

# By package, what may be named there: classes derived from these, and functions where it says so.
KINDS: dict[str, tuple[str, ...]] = {
    "lithydra.models": (MODULE, FUNCTION),
    "lithydra.losses": (MODULE,),
    "lithydra.normalization": (FUNCTION,),
    "lithydra.augmentations": (MODULE, FUNCTION),
    "lithydra.methods": (MODULE,),
    "lithydra.training.averaging": (MODULE,),
    "lithydra.optimizers": ("torch.optim.optimizer.Optimizer",),
    "lithydra.regularizers": (FUNCTION,),
    "lithydra.schedules": (FUNCTION,),
    "lithydra.callbacks": (CALLBACK,),
    "lithydra.search.report_to_trial": (CALLBACK,),
    "lithydra.data": ("lithydra.data.base.ImageDataModule",),
    "torch.nn": (MODULE,),
    "torch.optim": ("torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler"),
    "torchmetrics.classification": ("torchmetrics.metric.Metric",),
    "torchvision.models": (MODULE, BUILDER),
    "lightning.pytorch.callbacks": (CALLBACK,),
}
# The loggers that write to the run directory and nowhere else.
LOGGERS = frozenset(
    (
        "lightning.pytorch.loggers.TensorBoardLogger",
        "lightning.pytorch.loggers.CSVLogger",
        "lithydra.callbacks.tensorboard_logger.TensorBoardLogger",
    )
)

DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
STORE = re.compile(r"sqlite:///|file:(//(?=/))?")  # what follows is a path: absolute, or below the working directory
RUN = "${run}"  # the one interpolation that a stored config has
MAX_NODES, MAX_DEPTH = 100_000, 32  # of a config; lithydra's own have about 200 and 5

PLACES = ("logger", "callbacks", "trainer")  # groups whose settings say where something is written
PATH_KEY = re.compile(r"(^|_)(dir|dirpath|path|filepath|file|folder|root|uri|url|registry|location)(_|$)")
NAME_KEYS = ("name", "version", "filename", "sub_dir")  # below a directory that another key names
ELSEWHERE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|.*\.\.[/\\]|.*[/\\]\.\.$|\.\.$|.*://|file:")


def trusted(content: Any, where: str, trust: Iterable[str] = (), given: Mapping[str, Any] | None = None) -> DictConfig:
    """A config from a file, once it is known to name no code but lithydra's and the person's own.

    Args:
        content: Plain dicts, lists and values, as the file has them.
        where: The file, as messages name it.
        trust: Packages, or whole names of classes and functions, that the person vouches for.
        given: The person's own config, composed from conf/ and their command line: what it names is theirs.

    Raises:
        ConfigError: It names something else; the one line says at which keys.
    """
    packages = [trust] if isinstance(trust, str) else [*trust] if isinstance(trust, Iterable) else [trust]
    if not all(isinstance(package, str) and package for package in packages):
        raise ConfigError(f"trust={trust}: must be a list of packages, as trust=[mypackage]")
    own = named_targets() | LOGGERS | {str(value) for value in targets(given or {}).values()}
    foreign = {
        key: value
        for key, value in targets(content, where).items()
        if str(value) not in own and not _allowed(value, packages)
    }
    if foreign:
        shown = ", ".join(f"{key}={value}" for key, value in foreign.items())
        packages = ",".join(dict.fromkeys(str(value).partition(".")[0] for value in foreign.values()))
        raise ConfigError(
            f"{where}: {shown}: neither lithydra's nor named in conf/, and so not run; "
            f"trust=[{packages}] allows it, if you know whose code that is"
        )
    for key, value in _entries(content, where):
        if isinstance(value, str) and "${" in value.replace(RUN, ""):
            raise ConfigError(f"{where}: {key}={value}: a stored config holds values, and refers to nothing but {RUN}")
    try:
        return DictConfig(content)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: not a config: {' '.join(str(error).split())}") from error


def targets(content: Any, where: str = "") -> dict[str, Any]:
    """What a config has Hydra call, by dotted key."""
    return {key: value for key, value in _entries(content, where) if _is_target(key) and value is not None}


def own_code(given: Any) -> set[str]:
    """What a person's own config has Hydra call of neither lithydra nor the libraries that it stands on."""
    names = {str(name) for name in targets(given).values()}
    return {name for name in names if not name.startswith(("lithydra.", "torch.", "torchvision.", "lightning."))}


def needed_trust(config: Mapping[str, Any]) -> list[str]:
    """What a command on a run of this config must say: `trust=[package]`, or nothing.

    What the command line alone has named, no file vouches for later.
    """
    packages = dict.fromkeys(name.partition(".")[0] for name in sorted(own_code(config) - named_targets()))
    return [f"trust=[{','.join(packages)}]"] if packages else []


def refuse_places(content: Mapping[str, Any], where: str, given: Mapping[str, Any], outputs: str | None = None) -> None:
    """Raise ConfigError where a config from a file would write outside its run directory.

    Args:
        given: The person's own config: a place that it names at the same key is theirs.
        outputs: Their folder for outputs, where a logger's store for all runs may be.
    """
    own = dict(_entries(given, where))
    for key, value in _entries({group: content.get(group) for group in PLACES}, where):
        if isinstance(value, str) and value != own.get(key) and _leads_out(key.rpartition(".")[2], value, outputs):
            raise ConfigError(
                f"{where}: {key}={value}: would write outside the run's directory; "
                f"{key.split('.')[0]}=… on the command line takes your own"
            )


def _leads_out(name: str, value: str, outputs: str | None) -> bool:
    inner = value.removeprefix(RUN)
    if inner != value and inner[:1] in ("", "/"):
        return ".." in Path(inner).parts or RUN in inner
    if name in NAME_KEYS:
        return "/" in value or "\\" in value or ".." in value
    if outputs is not None and PATH_KEY.search(name) and (scheme := STORE.match(value)):
        place = Path(value[scheme.end() :]).absolute()
        return ".." in place.parts or "?" in value or not place.is_relative_to(Path(outputs).absolute())
    return ELSEWHERE.match(value) is not None or (bool(PATH_KEY.search(name)) and value != "")


def _is_target(key: str) -> bool:
    return key.rpartition(".")[2] == "_target_"


def _entries(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of all that is not a container, at any depth; positions in lists count as keys."""
    stack: list[tuple[str, Any, int]] = [("", node, 0)]
    count = 0
    while stack:
        key, value, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_NODES:
            raise ConfigError(f"{where}: not a config: nested too deep, or too large")
        children = None if _is_target(key) else _children(value)
        if children is None:
            yield key, value
        else:
            stack += [(f"{key}.{name}" if key else str(name), child, depth + 1) for name, child in children][::-1]


def _children(node: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(node, Mapping):
        return [*node.items()]
    return [*enumerate(node)] if isinstance(node, (list, tuple, set, frozenset)) else None


def _allowed(target: Any, trust: Sequence[str]) -> bool:
    """Whether a target is on the list or trusted, by its name and then by what the name stands for."""
    if not isinstance(target, str) or not DOTTED_NAME.fullmatch(target):
        return False
    return (
        target in trust
        or any(_inside(target, package) and _is_from(target, package) for package in trust)
        or any(_inside(target, package) and _is_of_kind(target, package) for package in KINDS)
    )


def _inside(name: str, package: str) -> bool:
    return name.startswith(f"{package}.")


def _is_from(target: str, package: str) -> bool:
    """Whether a target of a trusted package lies in it: what the package has imported is not its own."""
    try:
        return _found(target, package) is not None
    except AttributeError:
        return True  # to be refused where it is asked for
    except ImportError as error:
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            return True  # not here, so nothing of it can be called
        raise ConfigError(f"trust=[{package}]: cannot be imported: {error}") from error


def _is_of_kind(target: str, package: str) -> bool:
    kinds = KINDS[package]
    try:
        found = _found(target, package)
    except (AttributeError, ImportError):
        return False
    if inspect.isclass(found):
        return any(f"{base.__module__}.{base.__qualname__}" in kinds for base in found.__mro__)
    if not isinstance(found, FunctionType) or found.__name__.startswith("_"):
        return False
    return FUNCTION in kinds or (BUILDER in kinds and found.__name__ in _torchvision_builders())


def _found(target: str, package: str) -> Any:
    """What a name stands for; None where it or a step on the way to it is from outside `package`."""
    found: Any = importlib.import_module(package)
    for part in target.removeprefix(f"{package}.").split("."):
        if isinstance(found, ModuleType) and not hasattr(found, part):
            found = importlib.import_module(f"{found.__name__}.{part}")
        else:
            found = getattr(found, part)
        home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
        if not isinstance(home, str) or not (home == package or _inside(home, package)):
            return None
    return found


def _torchvision_builders() -> list[str]:
    from torchvision import models

    return models.list_models()
