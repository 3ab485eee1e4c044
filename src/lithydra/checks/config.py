"""The check of a composed config before torch is imported; all its problems are raised at once, a line each."""

import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from lithydra.checks.arguments import ARGUMENTS, HYDRA
from lithydra.checks.combinations import COMBINATIONS
from lithydra.checks.rules import AnyOf, Group, Number, shown
from lithydra.checks.settings import NEEDED, RULES
from lithydra.checks.unread import unread
from lithydra.errors import ConfigError, nearest, refuse
from lithydra.overrides import nodes

ROOT_KEYS = tuple(key for key in RULES if "." not in key)

# Groups of which there is one choice: a second one would be mixed into the first. Others compose, as callbacks=[a,b].
ONE_CHOICE = (
    "data",
    "normalization",
    "model",
    "loss",
    "method",
    "module",
    "average",
    "optimizer",
    "scheduler",
    "trainer",
    "accelerator",
    "paths",
)


def check(config: DictConfig, choices: Mapping[str, str] | None = None) -> None:
    """Raise one ConfigError with every problem of a composed config, a line each; return where there is none.

    Args:
        config: What a command line composes.
        choices: The option that was taken in each group, as Hydra tells it.
    """
    written: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # pyright: ignore[reportAssignmentType]
    refuse(_misshapen(written))
    plain = resolved(config)
    rules = RULES | _of_optimizer_groups(plain)
    refuse([*_unknown_root_keys(plain), *_several(plain, choices), *broken_rules(plain, rules, written)])
    refuse(unread(plain))
    refuse(problem for combination in COMBINATIONS for problem in combination(plain))


def resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values. Raises ConfigError for one that is missing or refers to nothing."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # pyright: ignore[reportReturnType]
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: must be given, {error.full_key}=…") from error
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _unknown_root_keys(config: dict[str, Any]) -> Iterator[str]:
    """Settings that `+` has put at the top level, where nothing reads them."""
    for key in sorted(map(str, config.keys() - set(ROOT_KEYS))):
        inside = [f"{group}.{key}" for group, node in config.items() if isinstance(node, dict) and key in node]
        hint = f" Did you mean {inside[0]}?" if inside else nearest(key, ROOT_KEYS)
        yield f"{key}={shown(config.get(key))}: nothing reads a setting of this name at the top level.{hint}"


def _of_optimizer_groups(config: dict[str, Any]) -> dict[str, Any]:
    """A group of parameters may have the optimizer's own arguments, and those have rules."""
    optimizer = config["optimizer"]
    arguments = ARGUMENTS.get(str(optimizer.get("_target_")), {}) if optimizer in RULES["optimizer"] else {}
    return {f"optimizer_groups.*.{name}": rule for name, rule in arguments.items()}


def _several(config: dict[str, Any], choices: Mapping[str, str] | None) -> Iterator[str]:
    """Groups that were given a list: Hydra names no choice of them."""
    if choices is not None:
        for group in (group for group in ONE_CHOICE if group in config and group not in choices):
            yield f"{group}: takes one choice, {group}=NAME; a list mixes the settings of all that it names"


def _misshapen(written: dict[str, Any]) -> Iterator[str]:
    """Needed settings that `~` has dropped, and values that stand where a group belongs."""
    found = dict(nodes(written))
    gone: dict[str, list[str]] = {}
    for key, rule in NEEDED.items():
        parent, _, name = key.rpartition(".")
        if key not in found and (not parent or isinstance(found.get(parent), dict)):
            gone.setdefault(parent, []).append(name)
        elif key in found and isinstance(rule, Group) and found[key] not in rule and "${" not in str(found[key]):
            yield refusal(key, found[key], rule)
    for parent, names in gone.items():
        key = f"{parent}.{names[0]}" if parent else names[0]
        more = f" and so {'is' if len(names) == 2 else 'are'} {', '.join(names[1:])}" if names[1:] else ""
        yield f"{key}: is missing{more}; it must be {NEEDED[key]}"


def broken_rules(
    config: dict[str, Any], rules: Mapping[str, Any], written: dict[str, Any] | None = None
) -> Iterator[str]:
    """A line for each setting that is not what its rule allows.

    Args:
        config: Plain and resolved.
        rules: By key, `*` for any name; the arguments of classes that ship have theirs beside these.
        written: The same config unresolved. A value that comes from another setting is refused there, once.
    """
    broken = {key: (value, rule) for key, value, rule in _ruled(config, rules) if value not in rule}
    sources = {key: str(value) for key, value in nodes(written or {})}
    for key, (value, rule) in broken.items():
        source = sources.get(key, "")
        if not broken.keys() & set(_references(key, source)):
            yield refusal(key, value, rule, source)


def _ruled(node: dict[str, Any], rules: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, value and rule of each setting that has a rule, without those below a wrong one."""
    arguments = {**HYDRA, **ARGUMENTS.get(str(node.get("_target_")), {})} if prefix else {}
    for name, value in node.items():
        key = f"{prefix}{name}"
        rule = rules.get(key) or arguments.get(name)
        rule = rule or next((r for pattern, r in rules.items() if fnmatch.fnmatchcase(key, pattern)), None)
        if rule is not None:
            yield key, value, rule
        if isinstance(value, dict) and (rule is None or value in rule):
            yield from _ruled(value, rules, f"{key}.")


def _references(key: str, source: str) -> Iterator[str]:
    """The settings that `${…}` in the source of the setting `key` names; those with dots before are relative."""
    for dots, name in re.findall(r"\$\{(\.*)([\w.]+)\}", source):
        yield ".".join([*key.split(".")[: -len(dots)], name]) if dots else name


def refusal(key: str, value: object, rule: Any, source: str = "") -> str:
    """Why a value is refused, with what is allowed; `source` is how it is written where it refers to others."""
    parts = rule.rules if isinstance(rule, AnyOf) else (rule,)
    if isinstance(value, str) and any(isinstance(part, Number) for part in parts):
        given = f"{shown(value)!r} (text)"
    elif isinstance(value, int) and not Number.holds(value):
        given = f"{shown(value)} (beyond 64 bits)"
    else:
        given = shown(value)
    came = f" (from {source})" if "${" in source else ""
    options = [option for part in parts for option in getattr(part, "options", ()) if isinstance(option, str)]
    hint = nearest(str(value), options)
    if isinstance(value, str) and "${oc.env:" in source:
        hint = f" ${{oc.decode:{source}}} reads a number or true, false and null from the environment's text."
    return f"{key}={given}{came}: must be {rule}.{hint}"
