"""The only module that calls hydra.utils.instantiate: what a `_target_` names, made from its settings.

Why something cannot be made is said in one line.
"""

import inspect
import os
import pkgutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from lithydra.checks.rules import shown
from lithydra.errors import ConfigError, LithydraError, first_line, nearest


def make(config: DictConfig, key: str, **arguments: Any) -> Any:
    """Instantiate a group, or a part of one. Raises ConfigError that names it and says what its target refused."""
    node = OmegaConf.create(OmegaConf.to_container(OmegaConf.select(config, key), resolve=True))
    refuse_unknown_arguments(key, node)
    with naming(key):
        return _plain_partials(instantiate(node, _convert_="all", **arguments))


@contextmanager
def naming(key: str) -> Iterator[None]:
    """What is refused while something is built becomes a ConfigError that names the setting `key`."""
    try:
        yield
    except LithydraError:
        raise
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, LithydraError):
            raise cause from None
        reason = cause if cause is not None and not isinstance(cause, InstantiationException) else error
        raise ConfigError(f"{key}: {first_line(reason)}") from error
    except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise ConfigError(f"{key}: {first_line(error)}") from error


def refuse_unknown_arguments(key: str, node: Any) -> None:
    """Of `node`, and of each of its parts: a target that is none, and a setting that its target does not take."""
    if not isinstance(node, DictConfig):
        return
    for name in node:
        refuse_unknown_arguments(f"{key}.{name}", node[name])
    if node.get("_target_") is None:
        return
    target = located(key, node._target_)
    parameters = dict(inspect.signature(target).parameters)
    unknown = sorted(str(name) for name in node.keys() - parameters.keys() if not str(name).startswith("_"))
    rest = [name for name, parameter in parameters.items() if parameter.kind is inspect.Parameter.VAR_KEYWORD]
    if unknown and rest:
        if not (inspect.isclass(target) and issubclass(target, TensorBoardLogger)):
            return
        from torch.utils.tensorboard import SummaryWriter  # gets the rest, and only when something is written

        parameters |= inspect.signature(SummaryWriter).parameters
    known = [name for name in parameters if name not in rest]
    for name in unknown:
        if name not in known:
            hint = nearest(name, known) or f" ~{key}.{name} drops what a recipe has set"
            raise ConfigError(f"{key}.{name}={shown(node[name])}: {target.__name__} takes {', '.join(known)}.{hint}")


def _plain_partials(built: Any) -> Any:
    """Hydra's own partial checks its target at each call, at 0.1 ms: too long for a penalty in the hot path."""
    if isinstance(built, dict):
        return {key: _plain_partials(value) for key, value in built.items()}
    return partial(built.func, *built.args, **built.keywords) if isinstance(built, partial) else built


def targets(config: DictConfig, key: str) -> dict[str, Any]:
    """The class or function that makes each part of a group, by the part's dotted key."""
    targets = {f"{key}.{name}": node._target_ for name, node in config[key].items()}
    return {name: located(name, target) for name, target in targets.items()}


def located(key: str, target: str) -> Any:
    """What `target` names; `key` is the setting that a refusal names.

    Raises:
        ConfigError: There is no such thing, or a module on the way to it does not import.
    """
    found: Any = None
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}._target_={shown(target)}: must be a class or function by its module, as a.b.Name")
    for number, name in enumerate(parts):
        path = ".".join(parts[: number + 1])
        if number and hasattr(found, name):
            found = getattr(found, name)
        elif number == 0 or isinstance(found, ModuleType):
            found = _imported(f"{key}._target_={target}", path, found)
        else:
            raise ConfigError(f"{key}._target_={target}: {_has_no(found, '.'.join(parts[:number]), name)}")
    if not callable(found):
        raise ConfigError(f"{key}._target_={target}: of type {type(found).__name__}, not a class or a function")
    return found


def _imported(setting: str, path: str, parent: ModuleType | None) -> ModuleType:
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            missing = f"there is no module {path}" if parent is None else _has_no(parent, *path.rsplit(".", 1))
            raise ConfigError(f"{setting}: {missing}") from None
        raise ConfigError(f"{setting}: {_place(error)}: {error}") from error
    except SyntaxError as error:
        where = f"{_short(error.filename or path)}, line {error.lineno}"
        raise ConfigError(f"{setting}: {where}: {type(error).__name__}: {error.msg}") from error
    except Exception as error:  # whatever a module does when it is imported
        raise ConfigError(f"{setting}: {_place(error)}: {type(error).__name__}: {first_line(error)}") from error


def _has_no(parent: object, path: str, name: str) -> str:
    names = {member for member in dir(parent) if not member.startswith("_")}
    names |= {module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", ()))}
    return f"{path} has no {name}.{nearest(name, sorted(names)).replace('mean ', f'mean {path}.')}"


def _place(error: BaseException) -> str:
    """File and line that raised it, of those that are not Python's own import machinery."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    written = [f for f in frames if f.filename not in (__file__, import_module.__code__.co_filename)]
    last = (written or frames)[-1]
    return f"{_short(last.filename)}, line {last.lineno}"


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
