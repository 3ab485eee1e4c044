"""Finding the class or function that a `_target_` names, and saying in one line why it cannot be had."""

import os
import pkgutil
import traceback
from importlib import import_module
from types import ModuleType
from typing import Any

from lithydra.checks.rules import shown
from lithydra.errors import ConfigError, nearest


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
        first = str(error).partition("\n")[0]
        raise ConfigError(f"{setting}: {_place(error)}: {type(error).__name__}: {first}") from error


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
