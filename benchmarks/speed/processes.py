"""Runs a job in a fresh process, in a terminal of its own, so that progress bars are drawn as for a person."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lithydra.errors import LithydraError
from lithydra.run.directory import RunDir

from .result import read_result
from .workloads import Job

ROOT = Path(__file__).parents[2]
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
CLOCKS = {"startup": "FirstStepClock"}
MODULES = {"bare": "bare", "operators": "operators", "dataloader": "dataloader", "lightning": "stock_lightning"}


def measure(job: Job, data: Path, output: Path) -> dict[str, Any]:
    """One job's measurements. `data` holds the npz files; the run's files lie in `output` while it lasts.

    Raises:
        LithydraError: the process failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory(dir=output) as name:
        directory = Path(name)
        started = time.time()
        with neighbors(job.neighbors):
            seconds = run(_command(job), directory, data, str(job), dict(job.environment))
        result: dict[str, Any] = {"seconds": seconds, **read_result(directory)}
        if "first_step" in result:
            result["first_step_seconds"] = result.pop("first_step") - started
        if job.contender == "lithydra":
            result |= _recorded(RunDir(directory / "run"))
        if job.measurement == "memory":
            run([sys.executable, "-m", "speed.imports"], directory, data, f"{job} imports")
            result["import_bytes"] = read_result(directory)["peak_bytes"]
        result.pop("modules", None)
        return result


@contextmanager
def neighbors(count: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def machine(data: Path, output: Path) -> dict[str, Any]:
    """Hardware, versions and commit."""
    with tempfile.TemporaryDirectory(dir=output) as name:
        run([sys.executable, "-m", "speed.machine"], Path(name), data, "machine")
        found = read_result(Path(name))
    return {key: found[key] for key in ("machine", "versions", "commit", "uncommitted")}


def run(
    command: list[str], directory: Path, data: Path, what: str, environment: Mapping[str, str] | None = None
) -> float:
    """Run `command` in `directory`: seconds from its start to its end."""
    paths = [str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    places = {"PYTHONPATH": os.pathsep.join(paths), "LITHYDRA_DATA": str(data.resolve())}
    terminal, its_side = pty.openpty()
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={**os.environ, **TERMINAL, **places, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    said = _read_all(terminal)
    code = process.wait()
    seconds = time.perf_counter() - start
    if code != 0:
        raise LithydraError(f"{what}: exit code {code}\n{said}")
    return seconds


def _command(job: Job) -> list[str]:
    if job.contender == "imports":
        return [sys.executable, "-c", "import lightning, hydra, torchvision"]
    if job.contender == "lithydra":
        clock = f"+callbacks.clock._target_=speed.clock.{CLOCKS.get(job.measurement, 'EpochClock')}"
        ending = ["trainer.max_steps=1", "test=false"] if job.measurement == "startup" else []
        settings = [f"accelerator={job.accelerator}", f"trainer.max_epochs={job.epochs}", "run=run", clock, *ending]
        return [sys.executable, str(ROOT / "train.py"), *job.workload.overrides(), *settings, *job.extra]
    task = {"workload": asdict(job.workload), "epochs": job.epochs, "accelerator": job.accelerator}
    return [sys.executable, "-m", f"speed.{MODULES[job.contender]}", json.dumps(task)]


def _read_all(terminal: int) -> str:
    """What is written to a terminal until its other side is closed: the last 4,000 bytes."""
    said = b""
    with open(terminal, "rb", buffering=0) as file:
        while True:
            try:
                part = file.read(65536)
            except OSError:  # how Linux says that nobody is left to write
                part = b""
            if not part:
                return said.decode(errors="replace")
            said = (said + part)[-4000:]


def _recorded(run: RunDir) -> dict[str, Any]:
    """What lithydra wrote of the run itself."""
    rows, metrics = run.read_metrics(), run.read_status()["metrics"]
    origin = json.loads(run.provenance.read_text())
    return {
        "num_train": origin["data"]["num_train"],
        "train_loss": float(rows[-1]["train/loss"]),
        "val_acc": float(rows[-1]["val/acc"]) if rows[-1]["val/acc"] else None,
        "test_acc": metrics.get("test/acc"),
        "trainer": {**origin["trainer"], "threads": origin["hardware"]["torch_threads"]},
    }
