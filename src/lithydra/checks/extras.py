"""Packages that only some commands need, as extras of pyproject.toml."""

from importlib.util import find_spec

from lithydra.errors import ConfigError

OWN_CONSTRAINTS = ("ray", "serve", "trackio")  # they want other versions than constraints.txt has


def require_extra(extra: str, *packages: str) -> None:
    """Raise ConfigError, with the line that installs them, where packages are missing. Nothing is imported."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: {not_installed(extra)}")


def not_installed(extra: str) -> str:
    constraints = f"constraints-{extra}.txt" if extra in OWN_CONSTRAINTS else "constraints.txt"
    return f'not installed; this needs pip install -c {constraints} -e ".[{extra}]"'
