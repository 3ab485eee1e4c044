"""The process that a sweep's jobs are forked from: it imports torch and loads each data set once, for all of them.

`python -m lithydra.sweep.server FD` talks in lines of JSON over the socket FD. The launcher sends

    {"start": job, "sweep": directory, "threads": 1, "gpu": "0" or null}
    {"signal": 15}                  to all jobs

and is told

    {"ready": true}
    {"started": job, "pid": 17}
    {"ended": job, "code": 0}       negative: the signal that killed it

When the launcher's end closes, for whatever reason, the jobs are asked to save and stop, and the server ends.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

PRELOAD = "LITHYDRA_PRELOAD"  # names of modules, of whoever starts the server
# What a run imports, at once and on its way.
IMPORTED = (
    "lithydra.training.train",
    "lithydra.callbacks.progress",
    "lithydra.callbacks.model_summary",
    "rich._emoji_codes",
    "sklearn.model_selection",
    "tensorboard.compat.proto",
    "tensorboard.plugins.hparams.metadata",
    "tensorboard.summary.writer.event_file_writer",
    "torch.utils.tensorboard",
)
LAST_SECONDS = 30  # that jobs get to save when the launcher is gone


class JobServer:
    """The server's end of the connection, and the processes that it has forked."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.running: dict[int, str] = {}  # process id -> job
        self._received = b""
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)

    def serve(self) -> None:
        """Carry out what the launcher asks for until it is gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that the wake-up pipe hears of it
        signal.set_wakeup_fd(self._wake)
        self._send(ready=True)
        while (messages := self._messages()) is not None:
            for message in messages:
                self._obey(message)
            self._reap()
        self._end()

    def _messages(self) -> list[dict[str, Any]] | None:
        """What has come in by the time that something did; None when the launcher is gone."""
        ready, _, _ = select.select([self.connection, self._woken], [], [])
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        if self.connection not in ready:
            return []
        part = self.connection.recv(65536)
        if not part:
            return None
        *lines, self._received = (self._received + part).split(b"\n")
        return [json.loads(line) for line in lines]

    def _obey(self, message: dict[str, Any]) -> None:
        if "signal" in message:
            self._signal(message["signal"])
            return
        process = self._fork(message)
        self.running[process] = message["start"]
        self._send(started=message["start"], pid=process)

    def _fork(self, message: dict[str, Any]) -> int:
        directory = Path(message["sweep"])
        share_data(directory, message["start"])
        gc.freeze()  # a job's garbage collector would touch, and so copy, every page that it shares: 0.8 s
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.setpgid(0, 0)
            self.connection.close()
            code = job_process(directory, message["start"], message["threads"], message["gpu"])
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for process in list(self.running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                self._send(ended=self.running.pop(process), code=os.waitstatus_to_exitcode(status))

    def _signal(self, number: int) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                # What a job has started itself (loaders, DDP) is ended by the job, unless it cannot any more.
                (os.killpg if number == signal.SIGKILL else os.kill)(process, number)

    def _end(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + LAST_SECONDS
        while self.running and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")


def share_data(directory: Path, name: str) -> None:
    """Load the data of a job before it is forked, if they are prepared: all later jobs have them too.

    Errors are left to the job, which meets them again and has a log to write them to.
    """
    from omegaconf import DictConfig, OmegaConf

    from lithydra.sweep.directory import SweepDir
    from lithydra.training import build

    sweep = SweepDir(directory)
    with contextlib.suppress(Exception):
        config: DictConfig = OmegaConf.create(sweep.config(sweep.job(name)))  # pyright: ignore[reportAssignmentType]
        if build.make(config, "data").fingerprint():
            build.data(config)


def job_process(directory: Path, name: str, threads: int, gpu: str | None) -> int:
    """What a forked process does, with its output in the job's train.log; returns its exit code."""
    import torch

    from lithydra.sweep.directory import SweepDir
    from lithydra.sweep.job import begin, carry_out

    sweep = SweepDir(directory)
    job = sweep.job(name)
    if not begin(sweep, job):
        return 0
    log = os.open(sweep.run(job).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    set_up_job_logging()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    return carry_out(sweep, job)


def set_up_job_logging() -> None:
    """As in a single run, with the time before each message."""
    from lithydra.logs import set_up_logging

    set_up_logging()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # CUDA must not be initialized in a process that others are forked from.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    from lithydra.data import shared
    from lithydra.run import provenance

    for name in (*IMPORTED, *os.environ.get(PRELOAD, "").split()):
        with contextlib.suppress(ImportError):  # then the run that needs it says so
            importlib.import_module(name)
    torch.set_num_threads(1)  # threads would not survive a fork
    shared.share()
    provenance.packages()
    provenance.note_start()
    JobServer(connection).serve()
    os._exit(0)  # libraries that were loaded here complain when they are unloaded


if __name__ == "__main__":
    main()
