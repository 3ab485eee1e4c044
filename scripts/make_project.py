"""Make the template a project of your own: make project NAME=shapes.

Renames the package, resets version, README, results and the license's holder, and leaves the changes uncommitted, for
you to look at. It takes itself away with them. docs/customizing.md says more.
"""

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "lithydra"  # kept by make project
KEPT = "kept by make project"  # ends a line that stays as it is
GONE = (
    "scripts/make_project.py",
    "tests/test_project.py",
    "docs/images/results",
    "docs/comparison.md",
    "CHANGELOG.md",
    "CITATION.cff",
)
OLD_RUNS = "tests/run/version_0_1/"  # of the template: they are read by its names
LONGEST = 100  # characters of a name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the package: lower-case letters, digits and _")
    parser.add_argument("--holder", help="of the copyright; git's user.name without it")
    arguments = parser.parse_args()
    if problem := _problem(arguments.name):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    commit = _git("rev-parse", "--short=12", "HEAD")
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    origin = f"{TEMPLATE} {version[1] if version else ''} ({commit})"
    for name in GONE:
        _remove(ROOT / name)
    count = rename(arguments.name)
    _reset(arguments.name, origin, arguments.holder or _git("config", "user.name") or "the authors")
    print(f"{count} files speak of {arguments.name} now. Look at them with git diff, then: make test && git commit -a")
    return 0


def rename(name: str) -> int:
    """The template's name gives way to `name`, in texts and in paths; returns how many files have changed."""
    changed = 0
    for line in sorted(_git("ls-files").splitlines()):
        path = ROOT / line
        if not path.is_file() or path.is_symlink() or path.name == "LICENSE" or line.startswith(OLD_RUNS):
            continue
        try:
            before = path.read_bytes().decode()
        except UnicodeDecodeError:  # a picture, or a checkpoint: that is read by its old names
            continue
        after = "".join(row if KEPT in row else _renamed(row, name) for row in before.splitlines(keepends=True))
        if after != before:
            path.write_bytes(after.encode())
            changed += 1
    for path in sorted(ROOT / line for line in _git("ls-files").splitlines()):
        moved = ROOT / _renamed(str(path.relative_to(ROOT)), name)
        if moved != path and path.exists():
            moved.parent.mkdir(parents=True, exist_ok=True)
            path.rename(moved)
    shutil.rmtree(ROOT / "src" / TEMPLATE, ignore_errors=True)  # what Python compiled there
    return changed


def _renamed(text: str, name: str) -> str:
    for old, new in ((TEMPLATE, name), (TEMPLATE.upper(), name.upper()), (TEMPLATE.title(), name.title())):
        text = text.replace(old, new)
    return text


def _reset(name: str, origin: str, holder: str) -> None:
    """Version, license, README and results begin anew; pyproject.toml says what it came from."""
    project = ROOT / "pyproject.toml"
    text = re.sub(r'^version = ".*"', 'version = "0.1.0"', project.read_text(), count=1, flags=re.MULTILINE)
    text = re.sub(r'^description = ".*"', f'description = "{name}"', text, count=1, flags=re.MULTILINE)
    project.write_text(f'{text.rstrip()}\n\n[tool.{name}]\norigin = "{origin}"\n')
    license_ = ROOT / "LICENSE"
    notice = f"Copyright (c) {date.today().year} {holder}\n"
    license_.write_text(license_.read_text().replace("Copyright (c)", f"{notice}Copyright (c)", 1))
    (ROOT / "docs" / "results.md").write_text("# Results\n\n`python benchmarks/reproduce.py` writes this page.\n")
    readme = ROOT / "README.md"
    sections = [_section(readme.read_text(), title) for title in ("What you type", "The house")]
    text = README.format(name=name, origin=origin, sections="".join(sections), today=date.today())
    readme.write_text(f"{text.rstrip()}\n")
    pages = ROOT / "docs" / "README.md"
    kept_pages = [line for line in pages.read_text().splitlines(keepends=True) if "comparison.md" not in line]
    pages.write_text("".join(kept_pages))
    guide = ROOT / "docs" / "customizing.md"
    guide.write_text(guide.read_text().replace(_section(guide.read_text(), "A project of your own"), ""))
    make = ROOT / "Makefile"
    kept = re.sub(r"^project: .*?\n\n", "", make.read_text(), flags=re.MULTILINE | re.DOTALL)
    make.write_text(kept.replace(" project", "", 1))


README = """# {name}

What is asked here, and what came out.

    make train      # or with settings: make train ARGS="optimizer=sgd lr=0.1"
    make test

[docs/](docs/README.md) says how all of it works. License: [MIT](LICENSE). Begun {today} from {origin}.

{sections}"""


def _section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def _problem(name: str) -> str | None:
    """Why a package cannot have this name, or not here and now."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > LONGEST:
        return f"NAME={name}: lower-case letters, digits and _, beginning with a letter"
    if name == TEMPLATE or keyword.iskeyword(name) or name in sys.stdlib_module_names or importlib.util.find_spec(name):
        return f"NAME={name}: Python has a module of this name already"
    if _git("status", "--porcelain"):
        return "there are uncommitted changes; commit them first, so that git can take this back"
    return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
