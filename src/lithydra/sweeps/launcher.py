"""Runs jobs as processes of this machine: a few at a time, each with its share of cores or its GPU."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from lithydra.errors import ConfigError, LithydraError, RunInterrupted
from lithydra.run.signals import EXIT_CODES
from lithydra.sweeps.directory import ENDED, FAILED, Job, SweepDir
from lithydra.sweeps.job import fail
from lithydra.sweeps.view import View, make_view

REFRESH_SECONDS = 0.25


@dataclass(frozen=True)
class Slot:
    """What one running job has for itself."""

    threads: int
    gpu: str | None


class LocalJobs:
    """The launcher's end of the connection to the server that jobs are forked from."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._signal: signal.Signals | None = None
        self._ready = False  # the server has imported torch
        self._processes: dict[str, int] = {}  # job -> process id

    def start_server(self, modules: Sequence[str] = ()) -> None:
        """Start the server, unless it runs; it takes some seconds to import torch, and `modules` of the jobs."""
        if self._server is not None:
            return
        self._connection, its = multiprocessing.Pipe()
        self._server = spawn_server(its, modules)
        its.close()

    def stop_server(self) -> None:
        """Close the connection: the server ends when its jobs have."""
        if self._server is None or self._connection is None:
            return
        self._connection.close()
        if not self._ready:
            self._server.terminate()
        self._server.wait()
        self._server = self._connection = None
        self._ready = False

    def run(self, sweep: SweepDir, jobs: Sequence[Job], config: DictConfig) -> None:
        """Run all of `jobs`; how each ended is in its run directory.

        Raises:
            RunInterrupted: A signal came; the jobs that ran have saved.
        """
        self.start_server()
        slots = make_slots(config, len(sweep.read().jobs))
        waiting = list(jobs)
        busy: dict[str, Slot] = {}
        by_name = {job.name: job for job in jobs}
        with self._signals(), make_view(sweep, jobs, len(slots)) as view:
            while self._signal is None and not self._ready:  # said once, and a search runs several batches
                self._ready = "ready" in self._message()
                view.refresh()
            while busy or (waiting and self._signal is None):
                while waiting and len(busy) < len(slots) and self._signal is None:
                    job, slot = waiting.pop(0), _free(slots, busy)
                    busy[job.name] = slot
                    self._send(start=job.name, sweep=str(sweep.path), threads=slot.threads, gpu=slot.gpu)
                self._note(self._message(), sweep, by_name, busy, view)
                if config.sweep.on_error == "stop" and any(sweep.state(job) in FAILED for job in jobs):
                    waiting.clear()
                view.refresh()
        if self._signal is not None:
            raise RunInterrupted(self._interrupted(sweep, jobs), EXIT_CODES[self._signal])

    def _note(
        self, message: dict[str, Any], sweep: SweepDir, jobs: dict[str, Job], busy: dict[str, Slot], view: View
    ) -> None:
        if "started" in message:
            self._processes[message["started"]] = message["pid"]
            view.started(jobs[message["started"]])
        elif "ended" in message:
            job, code = jobs[message["ended"]], message["code"]
            del busy[job.name], self._processes[job.name]
            if code < 0:
                self._settle(sweep, job, -code)
            view.ended(job)

    def _settle(self, sweep: SweepDir, job: Job, number: int) -> None:
        """Write down what a job could not that a signal killed."""
        state = sweep.state(job)
        if self._signal is None and state not in ENDED:
            fail(sweep, job, _killed(number))
        elif state == "running":  # killed as the sweep was stopped: it goes on from its last checkpoint
            sweep.run(job).update_status(state="interrupted")

    def _interrupted(self, sweep: SweepDir, jobs: Sequence[Job]) -> str:
        assert self._signal is not None
        states = [sweep.state(job) for job in jobs]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        command = shlex.join(["python", *sys.argv])
        return f"Stopped by {self._signal.name}, saved ({counts}). The same command goes on: {command}"

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal asks the jobs to save and stop, the second kills them."""

        def handle(number: int, frame: FrameType | None) -> None:
            again = self._signal is not None
            self._signal = signal.Signals(number)
            self._send(signal=signal.SIGKILL if again else number)

        before = {number: signal.signal(number, handle) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_orphans(self) -> None:
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def _send(self, **message: Any) -> None:
        assert self._connection is not None
        with suppress(ConnectionError):  # `_message` finds that the server is gone
            self._connection.send(message)

    def _message(self) -> dict[str, Any]:
        """What the server says within the refresh interval; empty where it says nothing."""
        assert self._connection is not None and self._server is not None
        try:
            return self._connection.recv() if self._connection.poll(REFRESH_SECONDS) else {}
        except (EOFError, ConnectionError) as error:
            self._stop_orphans()
            ended = f"the process that jobs are forked from ended (exit code {self._server.wait()})"
            raise LithydraError(ended) from error


def spawn_server(connection: Connection, modules: Sequence[str]) -> subprocess.Popen[bytes]:
    """A new process that serves `connection`, in a session of its own: Ctrl-C reaches only us, who pass it on once."""
    return subprocess.Popen(
        [sys.executable, "-m", "lithydra.sweeps.server", str(connection.fileno()), *modules],
        pass_fds=[connection.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def make_slots(config: DictConfig, num_jobs: int) -> list[Slot]:
    """What there is for jobs that run at once: as many as `sweep.n_jobs`, or one for each GPU or core.

    They depend on the sweep, not on what is left of it, so that a continued sweep computes with as many threads.
    """
    trainer = config.trainer
    gpus = visible_gpus() if trainer.accelerator in ("auto", "gpu", "cuda") else []
    cores = num_cores()
    processes = trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else len(gpus) or 1
    available = max(1, (len(gpus) or cores) // processes)
    given = config.sweep.n_jobs
    count = min(available, max(1, num_jobs)) if given == "auto" else given
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // (count * (1 if gpus else processes))))
    one_each = bool(gpus) and processes == 1
    return [Slot(threads, gpus[i % len(gpus)] if one_each else None) for i in range(count)]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Nvidia's GPUs as CUDA_VISIBLE_DEVICES names them, found without torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    numbers = sorted(int(path.name[6:]) for path in Path("/dev").glob("nvidia[0-9]*"))
    return [str(index) for index in range(len(numbers))]


def launched_jobs(config: DictConfig, job_overrides: Sequence[Sequence[str]]) -> tuple[SweepDir, list[Job]]:
    """The jobs that a launcher was given, as `SweepRunner.launch` writes them."""
    parser = OverridesParser.create()
    names: list[str] = []
    for overrides in job_overrides:
        values = {o.key_or_group: o.value() for o in parser.parse_overrides(list(overrides))}
        if "sweep.job" not in values:
            raise ConfigError("hydra/launcher=local: works with hydra/sweeper=grid and hydra/sweeper=optuna")
        names.append(str(values["sweep.job"]))
    sweep = SweepDir(Path(str(config.hydra.sweep.dir)))
    jobs = {job.name: job for job in sweep.read().jobs}
    return sweep, [jobs[name] for name in names]


def job_returns(sweep: SweepDir, jobs: Sequence[Job]) -> list[JobReturn]:
    """What Hydra expects of a launcher: each job's objective."""
    plan = sweep.read()
    values = [sweep.objective(job, plan) if sweep.state(job) == "finished" else None for job in jobs]
    return [
        JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value)
        for job, value in zip(jobs, values, strict=True)
    ]


def _free(slots: Sequence[Slot], busy: dict[str, Slot]) -> Slot:
    """A slot that fewer jobs have than there are of its kind."""
    taken = list(busy.values())
    return next(slot for slot in slots if taken.count(slot) < list(slots).count(slot))


def _killed(number: int) -> str:
    name = signal.Signals(number).name
    hints = {
        signal.SIGKILL: "from outside, or for want of memory",
        signal.SIGSEGV: "a crash inside a library",
        signal.SIGABRT: "a crash inside a library",
    }
    hint = hints.get(signal.Signals(number))
    return f"killed by {name}" + (f" ({hint})" if hint else "")
