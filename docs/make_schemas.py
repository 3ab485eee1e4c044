"""Write the JSON schemas by which an editor completes and checks the files of conf/: .vscode/schemas/.

They are made of the rules that check a run's config, and of the comments in conf/. python docs/make_schemas.py
"""

import json
from pathlib import Path
from typing import Any

import yaml
from make_choices import CONF, ROOT, described

from lithydra.checks.arguments import ARGUMENTS, HYDRA
from lithydra.checks.rules import AnyOf, Choice, Group, ListOf, Number
from lithydra.checks.settings import RULES

FOLDER = ROOT / ".vscode" / "schemas"
INTERPOLATION = {"$ref": "#/$defs/interpolation"}
DEFINITIONS = {"interpolation": {"type": "string", "pattern": r"^(\$\{.*|\?\?\?)$"}}
# Folders whose files set what they like; a file of another group sets what lies in its node.
GLOBAL = ("experiment", "study", "debug", "variant", "local")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, ensure_ascii=False) + "\n")
    (FOLDER.parent / "settings.json").write_text(json.dumps({"yaml.schemas": mapping()}, indent=2) + "\n")


def mapping() -> dict[str, list[str]]:
    """Of each schema, the files that it is for, as VS Code's YAML extension wants to know it."""
    files = {f".vscode/schemas/{group}.json": [f"conf/{group}/**/*.yaml"] for group in _groups() if not _is_wide(group)}
    wide = [f"conf/{group}/**/*.yaml*" for group in (*GLOBAL, *filter(_is_wide, _groups()))]
    return {".vscode/schemas/settings.json": ["conf/train.yaml", "conf/lr_find.yaml", *wide], **files}


def schemas() -> dict[str, dict[str, Any]]:
    """By name of the file: one of all settings, and one for each group."""
    tree = _tree()
    found = {"settings": _object(tree, "The settings of train.py", defaults=True)}
    for group in _groups():
        if not _is_wide(group):
            found[group] = _object(tree.get(group, {}), f"A choice of {group}", defaults=True, prefix=f"{group}.")
    return found


def _is_wide(group: str) -> bool:
    """Whether the files of a group set other things than what lies in its node."""
    return any("@package _global_" in path.read_text() for path in (CONF / group).rglob("*.yaml"))


def _groups() -> list[str]:
    folders = sorted(path.name for path in CONF.iterdir() if path.is_dir())
    return [name for name in folders if name not in (*GLOBAL, "hydra", "paths")]


def _tree() -> dict[str, Any]:
    """Rules by nested keys: those of every run, and what the classes of each group take."""
    tree: dict[str, Any] = {}
    for key, rule in RULES.items():
        if "*" not in key and not isinstance(rule, Group):
            _put(tree, key.split("."), rule)
    for group in _groups():
        for path in sorted((CONF / group).rglob("*.yaml")):
            for prefix, target in _targets(path, group):
                for name, rule in {**ARGUMENTS.get(target, {}), **HYDRA}.items():
                    _put(tree, [*prefix, name], rule)
    return tree


def _targets(path: Path, group: str) -> list[tuple[list[str], str]]:
    """The nodes of a file that name a class, by their keys from the root, and the class."""
    content = yaml.safe_load(path.read_text()) or {}
    start = [] if "@package _global_" in path.read_text() else [group]
    found: list[tuple[list[str], str]] = []
    waiting = [(start, content)]
    while waiting:
        keys, node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                found.append((keys, node["_target_"]))
            waiting += [([*keys, str(key)], value) for key, value in node.items()]
    return found


def _put(tree: dict[str, Any], keys: list[str], rule: Any) -> None:
    """Where two classes of a group take an argument of the same name, what either allows is allowed."""
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    before = tree.get(keys[-1])
    if isinstance(before, dict):
        return
    tree[keys[-1]] = rule if before in (None, rule) else AnyOf((before, rule))


def _object(tree: dict[str, Any], title: str = "", *, defaults: bool = False, prefix: str = "") -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key, rule in tree.items():
        dotted = f"{prefix}{key}"
        schema = _object(rule, prefix=f"{dotted}.") if isinstance(rule, dict) else _schema(rule)
        text = described().get(dotted) or ("" if isinstance(rule, dict) else str(rule))
        properties[key] = {**schema, "description": text} if text else schema
    if defaults:
        properties["defaults"] = {"type": "array", "description": "Hydra's defaults list: choices of groups, in order"}
    if title:
        return {"title": title, "$defs": DEFINITIONS, "type": "object", "properties": properties}
    return {"anyOf": [{"type": ["object", "null"], "properties": properties}, INTERPOLATION]}


def _schema(rule: Any) -> dict[str, Any]:
    """A rule as JSON schema; an interpolation may stand for any value."""
    return {"anyOf": [_plain(rule), INTERPOLATION]}


def _plain(rule: Any) -> dict[str, Any]:
    if isinstance(rule, AnyOf):
        return {"anyOf": [_plain(part) for part in rule.rules]}
    if isinstance(rule, Choice):
        return {"enum": list(rule.options)}
    if isinstance(rule, Number):
        bounds = {"minimum": rule.least, "maximum": rule.most, "exclusiveMinimum": rule.above}
        bounds["exclusiveMaximum"] = rule.below
        kind = {"type": "integer" if rule.whole else "number"}
        return kind | {name: bound for name, bound in bounds.items() if bound is not None}
    if isinstance(rule, ListOf):
        items = {} if rule.item is Any else {"items": _schema(rule.item)}
        most = {"maxItems": rule.max_length} if rule.max_length else {}
        return {"type": "array", "minItems": rule.min_length, **most, **items}
    if isinstance(rule, Group):
        return {"type": "object"}
    return {"type": "string", "minLength": 1}  # text, a path, a metric's or a directory's name


if __name__ == "__main__":
    main()
