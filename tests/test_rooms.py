"""The order of the house: a room imports only rooms below it, and nothing runs in a circle."""

import ast
from pathlib import Path

from conftest import ROOT

# From the top to the ground; those in one line do not import each other, but for data and models' own modules.
ORDER = (
    ("cli", "api"),
    ("verbs",),
    ("search",),
    ("report",),
    ("sweeps",),
    ("callbacks",),
    ("training",),
    ("checks",),
    ("run",),
    ("methods",),
    (
        *("data", "models", "augmentations", "losses", "metrics", "normalization"),
        *("optimizers", "regularizers", "schedules"),
    ),
    ("errors", "files", "logs", "overrides"),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
PACKAGE = ROOT / "src" / "lithydra"


def modules() -> dict[str, Path]:
    """By dotted name below lithydra; the package itself, which gives `load` and others when asked, left out."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in paths.items() if name != "__init__"}


def imports(path: Path, names: set[str]) -> set[str]:
    """The modules of lithydra that a file imports, inside functions and for type checking too."""
    found: set[object] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call):  # import_module("lithydra.x")
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    inside = {str(name).removeprefix("lithydra.") for name in found if str(name).startswith("lithydra.")}
    return inside & names


def arrows() -> dict[str, set[str]]:
    paths = modules()
    return {name: imports(path, set(paths)) - {name} for name, path in paths.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_lies_in_a_room() -> None:
    assert {room(name) for name in modules()} == set(RANK)


def test_rooms_import_only_rooms_below() -> None:
    upward = {
        f"{module} -> {other}"
        for module, others in arrows().items()
        for other in others
        if RANK[room(other)] < RANK[room(module)]
    }
    assert upward == set()


def test_nothing_imports_in_a_circle() -> None:
    left = arrows()
    while left:  # what imports nothing of the rest, or is imported by nothing of it, lies in no circle
        imported = set().union(*left.values())
        inside = {m: others for m, others in left.items() if others & left.keys() and m in imported}
        if len(inside) == len(left):
            break
        left = inside
    assert left == {}


def test_the_house_is_small() -> None:
    names = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert sum(name.endswith(".py") for name in names) <= 13 and sum("." not in name for name in names) <= 12
    long = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 300
    }
    assert long == set()
