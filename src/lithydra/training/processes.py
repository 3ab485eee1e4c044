"""Several processes that train one model: the main one of a machine starts the others, and none outlives it."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

import lightning as L
import torch

from lithydra.errors import LithydraError
from lithydra.run.lifecycle import write_failure
from lithydra.run.signals import SIGNALS_OF
from lithydra.training.interrupts import Interrupts
from lithydra.training.lightning_inside import BaseLauncher, CommandLauncher, set_launcher, set_num_threads

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL_SECONDS = 0.2
GRACE_SECONDS = 5  # for an exception to come out of what a lost process leaves waiting
LAST_SECONDS = 60  # for the others to end when all is done
LAST_LINES = 30  # of what a lost process said


@contextmanager
def other_processes(trainer: L.Trainer, job: dict[str, Any], interrupts: Interrupts) -> Iterator[None]:
    """While the run goes on, the other processes of this machine do, if the trainer has several.

    Args:
        job: `config`, `choices` and `overrides` of `lithydra.training.train.train`, as plain values.

    Raises:
        LithydraError: Another process has ended before its time.
    """
    given = trainer.strategy.launcher
    if not isinstance(given, CommandLauncher):
        yield
        return
    launcher = Launcher(given, job, interrupts, records=trainer.is_global_zero)
    set_launcher(trainer, launcher)
    try:
        yield
        launcher.wait()
        launcher.leave()
    except RuntimeError as error:
        if _lost_connection(error) and (reason := launcher.reason(GRACE_SECONDS)):
            raise reason from error
        raise
    finally:
        launcher.close()


class Launcher(BaseLauncher):
    """Starts a process for each further device of this machine, and watches them.

    Lightning's own starts the command line once more, which a job of a sweep or a notebook cannot do; and it ends the
    run by SIGKILL when a process is lost.
    """

    @property
    def is_interactive_compatible(self) -> bool:
        return True

    def __init__(self, given: CommandLauncher, job: dict[str, Any], interrupts: Interrupts, *, records: bool) -> None:
        self.environment = given.cluster_environment
        self.num_processes, self.num_nodes = given.num_processes, given.num_nodes
        self.job, self.interrupts, self.records = job, interrupts, records
        self.processes: list[subprocess.Popen[bytes]] = []
        self._outputs: list[IO[bytes]] = []
        self._closing = threading.Event()

    def launch(self, function: Callable[..., T], *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> T:
        self.environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.processes and not self.environment.creates_processes_externally:
            for rank in range(1, self.num_processes):
                self._start(rank)
            threading.Thread(target=self._watch, daemon=True).start()
        set_num_threads(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def kill(self, signum: int) -> None:
        for process in self.processes:
            process.send_signal(signum)

    def _start(self, local_rank: int) -> None:
        environment = {
            **os.environ,
            "MASTER_ADDR": self.environment.main_address,
            "MASTER_PORT": str(self.environment.main_port),
            "NODE_RANK": str(self.environment.node_rank()),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        }
        output = tempfile.TemporaryFile()  # noqa: SIM115
        process = spawn(environment, output)
        self.processes.append(process)
        self._outputs.append(output)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # then it is gone, and is found to be
            process.stdin.write(json.dumps(self.job).encode() + b"\n")
            process.stdin.flush()

    def wait(self) -> None:
        """Until the others have ended, too."""
        deadline = time.monotonic() + LAST_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in self.processes):
            time.sleep(POLL_SECONDS / 10)

    def leave(self) -> None:
        """Leave this process as one that a further run may start in."""
        if self.processes and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
            for name in ("MASTER_ADDR", "MASTER_PORT"):  # Lightning has set them
                os.environ.pop(name, None)

    def reason(self, seconds: float = 0) -> LithydraError | None:
        """Why a process was lost, if one is within this time: a signal, or what it says itself."""
        deadline = time.monotonic() + seconds
        while not (lost := [i for i, process in enumerate(self.processes) if process.poll()]):
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_SECONDS)
        code = self.processes[lost[0]].returncode
        if number := self.interrupts.received or SIGNALS_OF.get(code):
            return self.interrupts.stopped_by(number)
        log.error("%s", self._last_words(lost[0]))
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        return LithydraError(f"Process {lost[0] + 1} of {self.num_processes} (from 0) ended by itself ({how})")

    def _last_words(self, index: int) -> str:
        self._outputs[index].seek(0)
        lines = self._outputs[index].read().decode(errors="replace").splitlines()
        return "\n".join([f"The last that process {index + 1} said:", *lines[-LAST_LINES:]])

    def _watch(self) -> None:
        """End this process where it waits for one that is lost, and cannot be woken."""
        while not self._closing.wait(POLL_SECONDS):
            if self.interrupts.ending or not any(process.poll() for process in self.processes):
                continue
            if self._closing.wait(GRACE_SECONDS) or self.interrupts.ending:
                continue
            reason = self.reason()
            assert reason is not None
            self.close()
            if self.records:
                write_failure(self.interrupts.run, reason)
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(reason.exit_code)

    def close(self) -> None:
        """Whatever the others do, it is over."""
        self._closing.set()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for output in self._outputs:
            output.close()


def spawn(environment: dict[str, str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    """A further process, which waits for its job on stdin, and ends when that is closed."""
    command = [sys.executable, "-m", "lithydra.training.rank"]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output)


def _lost_connection(error: RuntimeError) -> bool:
    """Whether an exchange with another process broke off, rather than anything of this one."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
