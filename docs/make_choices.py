"""Write docs/choices.md from conf/: every choice of every group, with its settings as their files have them.

python docs/make_choices.py
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "choices.md"
SETTING = re.compile(r"^(?P<indent> *)(?P<key>[\w./]+):(?P<value>[^#]*)(?:#\s*(?P<comment>.*))?$")
NOT_SHOWN = ("defaults", "_target_", "_partial_", "_convert_", "name", "seed", "dir", "sweep.job")
# Groups whose choices are commands of their own: what their files say at the top is what there is to know.
TOLD_AT_THE_TOP = ("experiment", "study", "debug", "variant")
INTRODUCTION = """# Choices

`python train.py GROUP=CHOICE GROUP.KEY=VALUE`, in any order; several parts of a list group as `GROUP=[A,B]`. The choice
in bold is taken where nobody says otherwise. `docs/make_choices.py` writes this page from [conf/](../conf), where
a file of yours is a choice more, and a test holds it to be true.
"""


def main() -> None:
    PAGE.write_text(page())


def page() -> str:
    defaults = yaml.safe_load((CONF / "train.yaml").read_text())["defaults"]
    chosen = {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}
    groups = [group for group in chosen if (CONF / group).is_dir() and group != "paths"]
    return "\n".join([INTRODUCTION, _root(), *(_group(group, chosen[group]) for group in groups)])


def _root() -> str:
    """The settings of train.yaml that belong to no group."""
    lines = ["## Without a group", "", "| setting | value | |", "|---|---|---|"]
    lines += [f"| `{key}` | {_code(value)} | {comment} |" for key, value, comment in _settings(CONF / "train.yaml")]
    return "\n".join([*lines, ""])


def _group(group: str, default: str | None) -> str:
    files = sorted(path for path in (CONF / group).rglob("*.yaml") if not path.name.startswith("_"))
    names = {path: path.relative_to(CONF / group).with_suffix("").as_posix() for path in files}
    if group in TOLD_AT_THE_TOP:
        rows = [f"| `{group}={name}` | {_top(path)} |" for path, name in names.items()]
        return "\n".join([f"## {group}", "", "| choice | |", "|---|---|", *rows, ""])
    rows: list[str] = []
    for path, name in names.items():
        shown = f"**`{name}`**" if name == default else f"`{name}`"
        rows.append(f"| {shown} | {_what(path)} | {_keys(path, group, name)} |")
    shared = CONF / group / "_base.yaml"
    common = [f"All have {_keys(shared, group, '')}.", ""] if shared.is_file() else []
    return "\n".join([f"## {group}", "", *common, "| choice | what | settings |", "|---|---|---|", *rows, ""])


def _keys(path: Path, group: str, name: str) -> str:
    """The settings of a file, each as it is typed below its group."""
    own = {f"{group}.{name}.": f"{name}.", f"{group}.": "", f"{name}.": f"{name}."}
    cells: list[str] = []
    for key, value, comment in _settings(path):
        start = next((start for start in own if key.startswith(start)), "")
        shown = own.get(start, "") + key[len(start) :]
        cells.append(f"`{shown}`{f' = {_code(value)}' if value else ''}{f' {comment}' if comment else ''}")
    return "; ".join(cells)


def _settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Dotted key, value and comment of each setting of a YAML file, in its order."""
    parents: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        if not (found := SETTING.match(line)):
            continue
        indent, key = len(found["indent"]), found["key"]
        parents = [parent for parent in parents if parent[0] < indent]
        value, comment = found["value"].strip(), (found["comment"] or "").strip(" ;").replace("|", "\\|")
        if parents and parents[0][1] == "defaults":
            continue
        dotted = ".".join([*(name for _, name in parents), key])
        if not {key, dotted} & {*NOT_SHOWN} and (value or comment):
            yield dotted, value, comment
        parents.append((indent, key))


@cache
def described() -> dict[str, str]:
    """What the files of conf/ say of each setting, by its dotted key from the root."""
    found: dict[str, str] = {}
    for path in [CONF / "train.yaml", *sorted(CONF.glob("*/**/*.yaml"))]:
        group = path.relative_to(CONF).parts[0]
        at_root = path.parent == CONF or "@package _global_" in path.read_text()
        if group in TOLD_AT_THE_TOP:
            continue
        for key, _, comment in _settings(path):
            if comment:
                found.setdefault(key if at_root else f"{group}.{key}", comment.replace("\\|", "|"))
    return found


def _what(path: Path) -> str:
    """What a choice is: the first comment of its file, or the first line of its class's docstring, or its class."""
    text = path.read_text()
    if comment := _top(path):
        return comment
    target = re.search(r"_target_: ([\w.]+)", text)
    if target is None:
        parts = re.search(r"^defaults: \[(.*)\]$", text, re.MULTILINE)
        return f"`{parts[1]}`" if parts else ""
    return _docstring(target[1]) or f"`{target[1]}`"


def _top(path: Path) -> str:
    """The comment at the top of a file, without the command line in it."""
    lines: list[str] = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if not text.startswith(("@package", "python train.py")):
            lines.append(text)
    return " ".join(lines).replace("|", "\\|")


def _docstring(target: str) -> str:
    """The first line of what a class or function of lithydra says of itself."""
    module, _, name = target.rpartition(".")
    path = ROOT / "src" / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        return ""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return ""


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


if __name__ == "__main__":
    main()
