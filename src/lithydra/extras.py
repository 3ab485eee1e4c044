"""Packages that only some commands need, as extras of pyproject.toml."""

from importlib.util import find_spec

from lithydra.errors import ConfigError


def require_extra(extra: str, *packages: str) -> None:
    """Raise ConfigError, with the line that installs them, where packages are missing. Nothing is imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f'{", ".join(missing)}: not installed; this needs pip install -e ".[{extra}]"')
