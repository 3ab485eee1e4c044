"""The process that a sweep's jobs are forked from: it imports torch and loads each data set once, for all of them.

`python -m lithydra.sweeps.server FD MODULE …` imports the modules, too, and serves the connection FD. The launcher
sends

    {"start": job, "sweep": directory, "threads": 1, "gpu": "0" or None}
    {"signal": 15}                  to all jobs

and receives

    {"ready": True}
    {"started": job, "pid": 17}
    {"ended": job, "code": 0}       negative: the signal that killed it

When the launcher's end closes, for whatever reason, the jobs are asked to save and stop, and the server ends.
multiprocessing's forkserver is not this: it imports modules when it starts, and cannot load a job's data set later.
"""

import contextlib
import gc
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lithydra.training.importing import collector_at_rest

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
POLL_SECONDS = 1  # for the end of a job whose own processes outlive it, and keep its sentinel open
LAST_SECONDS = 30  # that jobs get to save when the launcher is gone


class JobServer:
    """The server's end of the connection, and the processes that it has forked."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.running: dict[str, BaseProcess] = {}  # by job

    def serve(self) -> None:
        """Carry out what the launcher asks for until it is gone."""
        self._send(ready=True)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                sentinels = [process.sentinel for process in self.running.values()]
                if self.connection in wait([self.connection, *sentinels], POLL_SECONDS if sentinels else None):
                    self._obey(self.connection.recv())
                self._reap()
        self._end()

    def _obey(self, message: dict[str, Any]) -> None:
        if "signal" in message:
            self._signal(message["signal"])
        else:
            self._start(message["start"], Path(message["sweep"]), message["threads"], message["gpu"])

    def _start(self, name: str, directory: Path, threads: int, gpu: str | None) -> None:
        share_data(directory, name)
        gc.freeze()  # a job's garbage collector would touch, and so copy, every page that it shares: 0.8 s
        process: BaseProcess = multiprocessing.get_context("fork").Process(
            target=job_process, args=(self.connection, directory, name, threads, gpu)
        )
        process.start()
        self.running[name] = process
        self._send(started=name, pid=process.pid)

    def _reap(self) -> None:
        for name, process in list(self.running.items()):
            if process.exitcode is not None:
                del self.running[name]
                self._send(ended=name, code=process.exitcode)

    def _signal(self, number: int) -> None:
        for process in self.running.values():
            if process.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    # What a job has started itself (loaders, DDP) is ended by the job, unless it cannot any more.
                    (os.killpg if number == signal.SIGKILL else os.kill)(process.pid or 0, number)

    def _end(self) -> None:
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + LAST_SECONDS
        for process in self.running.values():
            process.join(max(0.0, deadline - time.monotonic()))
        self._signal(signal.SIGKILL)

    def _send(self, **message: Any) -> None:
        with contextlib.suppress(ConnectionError):
            self.connection.send(message)


def share_data(directory: Path, name: str) -> None:
    """Load the data of a job before it is forked, if they are prepared: all later jobs have them too.

    Errors are left to the job, which meets them again and has a log to write them to.
    """
    from omegaconf import DictConfig, OmegaConf

    from lithydra.sweeps.directory import SweepDir
    from lithydra.training import build
    from lithydra.training.instantiate import make

    sweep = SweepDir(directory)
    with contextlib.suppress(Exception):
        config: DictConfig = OmegaConf.create(sweep.config(sweep.job(name)))  # pyright: ignore[reportAssignmentType]
        if make(config, "data").fingerprint():
            build.data(config)


def job_process(connection: Connection, directory: Path, name: str, threads: int, gpu: str | None) -> None:
    """What a forked process does; it ends with the exit code of a single run."""
    connection.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    try:
        sys.exit(train_job(directory, name, threads, gpu))
    except KeyboardInterrupt:
        sys.exit(130)


def train_job(directory: Path, name: str, threads: int, gpu: str | None) -> int:
    """Train, with all output in the job's train.log; returns the exit code."""
    import torch

    from lithydra.sweeps.directory import SweepDir
    from lithydra.sweeps.job import begin, carry_out

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
    descriptor, *modules = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # CUDA must not be initialized in a process that others are forked from.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    with collector_at_rest():
        import torch

        from lithydra.data import shared
        from lithydra.run import provenance

        for name in (*IMPORTED, *modules):
            with contextlib.suppress(ImportError):  # then the run that needs it says so
                importlib.import_module(name)
    torch.set_num_threads(1)  # threads would not survive a fork
    shared.share()
    provenance.packages()
    provenance.note_start()
    JobServer(Connection(int(descriptor))).serve()
    os._exit(0)  # libraries that were loaded here complain when they are unloaded


if __name__ == "__main__":
    main()
