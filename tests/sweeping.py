"""Sweeps of the command line in forked processes: all is real but the import of torch, which this process has done."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lithydra import cli
from lithydra.data import shared
from lithydra.run.directory import TIMES, RunDir
from lithydra.sweeps import launcher
from lithydra.sweeps.directory import Job, SweepDir
from lithydra.sweeps.server import JobServer

QUICK = ("data.limit=200", "trainer.max_epochs=2", "model.hidden=[16]", "callbacks=none", "logger=none")


@dataclass
class Done:
    """A command that has ended."""

    code: int
    output: str
    sweep: SweepDir

    def runs(self) -> dict[str, RunDir]:
        return {job.name: self.sweep.run(job) for job in self.sweep.read().jobs}

    def states(self) -> dict[str, str]:
        return {job.name: self.sweep.state(job) for job in self.sweep.read().jobs}


@dataclass
class Command:
    """A command that runs; `wait` for it."""

    process: int
    folder: Path
    log: Path
    name: str

    def wait(self) -> Done:
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return Done(code, self.log.read_text(), SweepDir(self.folder / "outputs" / "sweeps" / self.name))

    def kill(self, number: int) -> None:
        os.kill(self.process, number)


class ForkedServer:
    """In place of the new process that imports torch: a fork of this one, which has."""

    def __init__(self, connection: Connection, modules: Sequence[str]) -> None:
        self.process = os.fork()
        if self.process == 0:
            try:
                os.setsid()
                for number in (signal.SIGTERM, signal.SIGUSR1):
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                # The launcher's end must not stay open in here, or its death would go unnoticed.
                os.closerange(3, connection.fileno())
                os.closerange(connection.fileno() + 1, 256)
                shared.share()
                JobServer(connection).serve()
            finally:
                os._exit(0)

    def terminate(self) -> None:
        os.kill(self.process, signal.SIGTERM)

    def wait(self) -> int:
        with contextlib.suppress(ChildProcessError):
            return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return 0


def start(
    *overrides: str, folder: Path, data_dir: Path, name: str = "s", patch: Callable[[], Any] = lambda: None
) -> Command:
    """`python train.py -m …` in `folder`, which holds nothing else; `patch` changes what runs in that process."""
    folder.mkdir(exist_ok=True)
    log = folder / f"log-{time.monotonic_ns()}"
    process = os.fork()
    if process:
        return Command(process, folder, log, name)
    code = 70
    try:
        with log.open("w", buffering=1) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
            os.chdir(folder)
            os.environ["LITHYDRA_DATA"] = str(data_dir)
            os.environ["OMP_NUM_THREADS"] = "1"
            launcher.spawn_server = ForkedServer  # pyright: ignore[reportAttributeAccessIssue]
            patch()
            named = () if any(o.startswith(("sweep.name=", "study=")) for o in overrides) else (f"sweep.name={name}",)
            sys.argv = ["train.py", "-m", *overrides, *named]
            cli.main("train")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def sweep(*overrides: str, folder: Path, data_dir: Path, **options: Any) -> Done:
    return start(*overrides, folder=folder, data_dir=data_dir, **options).wait()


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def table(done: Done) -> dict[str, Any]:
    """All results of a sweep that must not depend on how often it was interrupted."""
    plan = done.sweep.read()

    def row(job: Job) -> dict[str, Any]:
        run = done.sweep.run(job)
        status = run.read_status()
        rows = [{k: v for k, v in r.items() if k not in TIMES} for r in run.read_metrics()]
        kept = ("state", "metrics", "epoch", "step", "best_epoch")
        return {**{key: status.get(key) for key in kept}, "rows": rows, "key": job.key}

    return {job.name: row(job) for job in plan.jobs}
