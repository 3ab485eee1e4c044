"""Who has a directory: one process at a time. The lock of a dead process falls by itself."""

import os
import platform
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from lithydra.errors import ConfigError
from lithydra.files import naming, refuse_links_out, set_aside
from lithydra.run.directory import RunDir


def own(run: RunDir) -> AcquireReturnProxy:
    """Take the directory for this process until the lock is released."""
    return lock_directory(run.path, f"run={run.path}", wait_seconds=0.2)  # `wait_until_free` has it for a moment


def lock_directory(path: Path, name: str, wait_seconds: float = 0) -> AcquireReturnProxy:
    """Take a directory for this process. The lock of a dead process falls by itself.

    Raises:
        ConfigError: Another process has it, a link in it leads elsewhere, or it cannot be written.
    """
    refuse_links_out(path)
    owner = path / ".owner"
    try:
        held = FileLock(path / ".lock").acquire(timeout=wait_seconds)
    except Timeout as error:
        who = owner.read_text(errors="replace").strip() if owner.is_file() else "another process"
        raise ConfigError(f"{name}: in use by {who}") from error
    except OSError as error:
        raise ConfigError(f"{path / '.lock'}: cannot be locked: {error.strerror}") from error
    if owner.is_dir():
        set_aside(owner, "a folder")
    with naming(owner):
        owner.write_text(f"process {os.getpid()} on {platform.node()}\n")
    return held


def wait_until_free(run: RunDir, seconds: float = 0) -> bool:
    """Whether no process trains in `run`, or ceases to within `seconds`."""
    if not run.path.is_dir():
        return True
    try:
        with FileLock(run.path / ".lock", timeout=seconds):
            return True
    except Timeout:
        return False
