"""The life of a run directory: made, logged to, and its end kept in status.json and in the page of all runs."""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from lithydra.errors import ConfigError, LithydraError
from lithydra.files import remove_unfinished, set_aside, write_bytes
from lithydra.run import index
from lithydra.run.directory import RunDir, now

log = logging.getLogger(__name__)

# What status.json says of a run's end, and no longer once it goes on.
ENDING = ("finished", "error", "stopped", "more_epochs", "no_more_epochs", "compute")


def new_run(parent: Path, name: str) -> RunDir:
    """Make `parent/DATE_TIME_name`. Two runs that start in the same second get different directories."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            path = parent / (f"{stamp}_{name}" if number == 1 else f"{stamp}_{name}_{number}")
            with suppress(FileExistsError):
                path.mkdir()
                return RunDir(path, found=frozenset())
    except OSError as error:
        raise ConfigError(f"paths.runs={parent}: cannot be written: {error.strerror}") from error
    raise AssertionError("unreachable")


def new_run_at(path: Path) -> RunDir:
    """Make the directory `path`, which must not hold a run yet."""
    try:
        refuse_second_run(RunDir(path))
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run={path}: cannot be written: {error.strerror}") from error
    return RunDir(path, found=frozenset(entry.name for entry in path.iterdir()))


def refuse_second_run(run: RunDir) -> None:
    if run.status.exists():
        raise ConfigError(f"run={run.path}: holds a run already; resume={run.path} goes on with it")


@contextmanager
def logged(run: RunDir) -> Iterator[None]:
    """What is said goes to train.log too; how the run ended goes there alone, since whoever started it says it."""
    if _is_stdout(run.log):  # a sweep's job has its whole output there already
        yield
        return
    if run.log.is_dir():
        set_aside(run.log, "a folder")
    handler = logging.FileHandler(run.log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def tracked(run: RunDir, config: dict[str, Any]) -> Iterator[None]:
    """While a run trains here; status.json says how it ended. Own the directory first.

    What is refused before anything was trained leaves the directory as it was found; a new one is removed.
    """
    for folder in (run.path, run.checkpoints):
        remove_unfinished(folder)
    before = _Before(run)
    run.write_config(config)
    with run.command.open("a") as file:  # a line for each time that the run was gone on with
        file.write(shlex.join(["python", *sys.argv]) + "\n")
    run.update_status(state="running", started=now(), **dict.fromkeys(ENDING))
    try:
        yield
    except BaseException as error:
        if isinstance(error, ConfigError) and before.nothing_was_trained():
            before.bring_back()
            raise
        log.error("%s", error, exc_info=not isinstance(error, LithydraError))
        write_failure(run, error)
        raise
    finally:
        if not (run.path.parent / "sweep.json").exists():  # a sweep brings its jobs' rows up to date at its end
            index.update(Path(config["paths"]["outputs"]), [run])


def write_failure(run: RunDir, error: BaseException) -> None:
    """Say in status.json how the run has ended."""
    state = error.state if isinstance(error, LithydraError) else "failed"
    message = str(error) or type(error).__name__
    with suppress(LithydraError):  # on a full disk, the first error is the one to tell
        run.update_status(state=state, finished=now(), error=message)


class _Before:
    """How a run directory was found."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        files = (run.config, run.command, run.provenance, run.status)
        self.contents = {path: path.read_bytes() if path.is_file() else None for path in files}
        self.last = self._last()

    def _last(self) -> tuple[int, int] | None:
        return (stat.st_ino, stat.st_mtime_ns) if self.run.last.exists() and (stat := self.run.last.stat()) else None

    def nothing_was_trained(self) -> bool:
        return self._last() == self.last

    def bring_back(self) -> None:
        if self.run.found is not None:
            _remove_all_but(self.run.found, self.run.path)
            return
        for path, content in self.contents.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write_bytes(path, content)


def _remove_all_but(found: frozenset[str], directory: Path) -> None:
    for path in directory.iterdir():
        if path.name not in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with suppress(OSError):  # there was something in it before
        directory.rmdir()


def _is_stdout(path: Path) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(1))
