"""What the text of a sweep's overrides stands for. Light: no pandas."""

from typing import Any

from hydra.core.override_parser.types import Override

from lithydra.errors import ConfigError, nearest

# Settings of the sweep itself: they neither vary nor belong to a job.
ABOUT_THE_SWEEP = ("sweep", "paths", "hydra")
TAGS = ("log",)  # Hydra's tag(): of these, a search knows the meaning

# Axes that repeat a setting instead of changing it.
FOLDED = ("seed", "data.fold")


def bare(override: str) -> str:
    """The key of `key`, `+key=value`, `++key=value` or `~key`."""
    return override.partition("=")[0].lstrip("+~")


def refuse_axis(override: Override) -> None:
    """Raise ConfigError for what cannot vary from job to job, and for a tag that nothing reads."""
    if override.get_key_element().lstrip("+~").partition(".")[0] in ABOUT_THE_SWEEP:
        raise ConfigError(f"{override.input_line}: a setting of the sweep itself, which has one value for all its jobs")
    for tag in sorted(getattr(override.value(), "tags", set()) - set(TAGS)):
        raise ConfigError(f"{override.input_line}: tag {tag}: one of {', '.join(TAGS)}.{nearest(tag, TAGS)}")


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
