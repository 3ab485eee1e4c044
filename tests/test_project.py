"""make project: a fresh clone becomes a project of another name that passes its tests and reads the template's runs."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from conftest import ROOT, SMALL, RunTrain

pytestmark = pytest.mark.slow

TESTS = (
    *("test_rooms.py", "test_docs.py", "test_overrides.py", "test_cli.py"),
    *("run/test_moved.py", "checks/test_checks.py", "test_installing.py", "benchmarks/test_benchmark.py"),
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is tracked of the checkout, as it stands, in a repository of its own."""
    folder = tmp_path_factory.mktemp("clone") / "shapes"
    folder.mkdir()
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not names:
        pytest.skip("not a checkout of git")
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "the template")
    return folder


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=A Person", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """With the packages that are installed here, but for the template: `make project` takes it away."""
    own = folder.parent / "env" / "bin" / "python"
    if not own.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", own.parents[1]], check=True)
        (packages,) = own.parents[1].glob("lib/*/site-packages")
        (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")  # whose .pth files are not read
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([own, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["torch", "lithydra", "json", "class", "My-Shapes", "9shapes"])
def test_a_name_that_python_has_already_is_refused(clone: Path, name: str) -> None:
    done = python(clone, "scripts/make_project.py", name)
    assert done.returncode == 2 and done.stderr.startswith(f"error: NAME={name}: ")
    assert git(clone, "status", "--porcelain") == ""


def test_changes_that_git_could_not_take_back_are_refused(clone: Path) -> None:
    (clone / "train.py").write_text("# mine\n" + (clone / "train.py").read_text())
    done = python(clone, "scripts/make_project.py", "shapes")
    assert done.returncode == 2 and "uncommitted changes" in done.stderr
    git(clone, "checkout", "--quiet", "train.py")


@pytest.fixture(scope="module")
def project(clone: Path) -> Path:
    git(clone, "config", "user.name", "A Person")
    done = python(clone, "scripts/make_project.py", "shapes")
    assert done.returncode == 0, done.stderr
    for arguments in (("check", "--quiet", "--fix", "."), ("format", "--quiet", ".")):
        subprocess.run([shutil.which("ruff") or Path(sys.executable).with_name("ruff"), *arguments], cwd=clone)
    git(clone, "add", "--all")
    return clone


def test_nothing_speaks_of_the_template_but_where_it_must(project: Path) -> None:
    left: list[str] = []
    for name in git(project, "ls-files").splitlines():
        assert "lithydra" not in name
        if name.startswith("tests/run/version_0_1/"):
            continue
        try:
            lines = (project / name).read_text().splitlines()
        except UnicodeDecodeError:
            continue
        left += [name for line in lines if "lithydra" in line.lower() and "kept by make project" not in line]
    assert {*left} == {"LICENSE", "pyproject.toml", "README.md"}  # whose it is, and what it came from
    license_ = (project / "LICENSE").read_text()
    assert "A Person\n" in license_ and "The lithydra authors" in license_
    assert 'version = "0.1.0"' in (project / "pyproject.toml").read_text()
    assert not (project / "scripts" / "make_project.py").exists()
    assert "\nproject:" not in (project / "Makefile").read_text()
    assert not (project / "README.md").read_text().endswith("\n\n")  # which a linter would change


def test_its_linters_and_its_tests_pass(project: Path) -> None:
    ruff = shutil.which("ruff") or Path(sys.executable).with_name("ruff")
    for arguments in (("check", "."), ("format", "--check", ".")):
        done = subprocess.run([ruff, *arguments], cwd=project, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    done = python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS))
    assert done.returncode == 0, done.stdout[-5000:]


def test_it_reads_runs_of_the_template(project: Path, run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(*SMALL)
    arguments = (f"run={run.path}", f"paths.data={data_dir}", "accelerator=cpu", "--json")
    done = python(project, "scripts/evaluate.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert f'"test/acc": {run.read_status()["metrics"]["test/acc"]}' in done.stdout
    done = python(project, "train.py", f"resume={run.path}", "trainer.max_epochs=3", f"paths.data={data_dir}")
    assert done.returncode == 0, done.stderr
    assert len(run.read_metrics()) == 3
