"""Runs of two processes without the import of torch in each: both are forked from this one, all else is real."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from conftest import QUIET, _compose
from killing import started
from lithydra.checks.config import check
from lithydra.run.directory import RunDir
from lithydra.training import processes, rank
from lithydra.training.resuming import resumed
from lithydra.training.train import train

MEASURED = ("metrics=[accuracy,macro_f1,calibration_error]", "train_metrics=true")  # a sum and a list of each process
PLAIN = (*MEASURED, *QUIET, "model.hidden=[16]", "optimizer=sgd", "lr=0.3", "trainer.max_epochs=2")
# What the processes have to themselves: dropout and augmentation, BatchNorm's statistics, and sums in mid-epoch.
OWN = (
    "accelerator=ddp_cpu",
    *MEASURED,
    *QUIET,
    "data.limit=257",
    "data.batch_size=16",
    "trainer.max_epochs=3",
    "model.hidden=[16]",
    "model.dropout=0.3",
    "model.batch_norm=true",
    "augmentation=flip_crop",
    "augmentation.flip_crop.padding=1",
    "scheduler=onecycle",
    "trainer.steps_per_execution=4",
    "checkpoint.every_n_steps=3",
)


class ForkedRank:
    """In place of the new process that imports torch: a fork of the main one, with its job on stdin."""

    def __init__(self, environment: dict[str, str], output: IO[bytes]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(write)
            for source, target in ((read, 0), (output.fileno(), 1), (output.fileno(), 2)):
                os.dup2(source, target)
            import sys

            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
            os.environ.update(environment)
            rank.main()
        os.close(read)
        self.stdin = os.fdopen(write, "wb")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Runs:
    """Starts runs as the command line does, and leaves what they say in a log."""

    def __init__(self, data_dir: Path, folder: Path) -> None:
        self.data_dir, self.folder = data_dir, folder
        self.log = folder / "log"

    def train(self, *settings: str) -> None:
        config, choices = _compose(*settings, data_dir=self.data_dir, outputs=self.folder / "outputs")
        check(config)
        if config.resume:
            config = resumed(RunDir.open(Path(config.resume), "resume"), config, list(settings))
        train(config, choices, list(settings))

    def start(self, *settings: str, prepare: Callable[[], Any] | None = None) -> int:
        """The number of the main process, which leads a group of its own. `prepare` is called in it first."""

        def task() -> None:
            os.setpgid(0, 0)
            processes.spawn = self._spawn  # pyright: ignore[reportAttributeAccessIssue]
            if prepare is not None:
                prepare()
            self.train(*settings)

        return started(task, self.log)

    def _spawn(self, environment: dict[str, str], output: IO[bytes]) -> ForkedRank:
        forked = ForkedRank(environment, output)
        (self.folder / "rank").write_text(str(forked.pid))
        return forked

    def rank_is_gone(self) -> bool:
        """Whether the last run's other process has ended; one that nobody has waited for counts as ended."""
        state = Path(f"/proc/{(self.folder / 'rank').read_text()}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

    def finished(self, name: str, *settings: str, prepare: Callable[[], Any] | None = None) -> RunDir:
        run = RunDir(self.folder / name)
        code = ended(self.start(*settings, f"run={run.path}", prepare=prepare))
        assert code == 0, self.log.read_text()
        return run


@pytest.fixture
def runs(data_dir: Path, tmp_path: Path) -> Runs:
    return Runs(data_dir, tmp_path)


def in_rank(local_rank: int, action: Callable[[], Any]) -> Callable[[], None]:
    """`action`, but only in one of the processes."""

    def act() -> None:
        if int(os.environ.get("LOCAL_RANK", "0")) == local_rank:
            action()

    return act


def ended(process: int, seconds: float = 120) -> int:
    """The exit code. A process that hangs is killed, with its group."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("hangs")
