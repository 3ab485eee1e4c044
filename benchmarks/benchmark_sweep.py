"""Measure what a sweep costs beside the training in it: python benchmarks/benchmark_sweep.py --data data.

Three measurements, each of whole commands in new processes:

- sweep: 12 jobs (an MLP on MNIST, 2 epochs) in one command;
- separate: the same 12 as `python train.py` one after the other;
- overhead: sweeps of 4 and of 16 jobs that take one optimizer step and test nothing; their difference over 12.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from lithydra.errors import ConfigError, LithydraError
from lithydra.files import write_json
from lithydra.run.directory import RunDir
from lithydra.sweeps.directory import SweepDir
from lithydra.sweeps.launcher import num_cores
from speed.tables import Table

ROOT = Path(__file__).parents[1]
AXES = {"optimizer": ("sgd", "adam"), "lr": ("0.1", "0.01", "0.001"), "seed": ("0", "1")}
TRAINING = ("data=mnist", "model=mlp", "trainer.max_epochs=2", "accelerator=cpu")
NOTHING = ("trainer.max_steps=1", "data.limit=100", "test=false", "accelerator=cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="directory of mnist.npz")
    parser.add_argument("--separate", type=int, default=12, help="separate runs to measure; their mean counts 12 times")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark-sweep.json"))
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks-sweep.md")
    options = parser.parse_args()
    try:
        record = benchmark(options.data, options.separate)
    except LithydraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, record)
    Console(highlight=False).print(table(record).rich())
    if options.docs:
        (ROOT / "docs" / "benchmarks-sweep.md").write_text(markdown(record))


def benchmark(data: Path, num_separate: int) -> dict[str, Any]:
    """All measurements, in seconds."""
    if not (data / "mnist.npz").is_file():
        raise ConfigError(
            f"--data {data}: mnist.npz is not there; `python train.py data=mnist trainer.max_steps=1` makes it"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["train.py", *TRAINING, "trainer.max_steps=1", "test=false"], folder, data)  # files into the page cache
        axes = [f"{key}={','.join(values)}" for key, values in AXES.items()]
        seconds = run(["train.py", "-m", *axes, *TRAINING, "sweep.name=training"], folder, data)
        runs = runs_of(folder, "training")
        points = list(product(*AXES.values()))[:num_separate]
        separate = [separately(dict(zip(AXES, point, strict=True)), folder, data) for point in points]
        few, many = (nothing(count, folder, data) for count in (4, 16))
        return {
            "cores": num_cores(),
            "jobs": len(runs),
            "sweep_seconds": seconds,
            "sweep_training_seconds": sum(map(training_seconds, runs)),
            "separate_seconds": separate,
            "of_4_idle_jobs_seconds": few,
            "of_16_idle_jobs_seconds": many,
            "hardware": json.loads(runs[0].provenance.read_text())["hardware"],
            "commit": json.loads(runs[0].provenance.read_text())["git"]["commit"],
        }


def separately(settings: dict[str, str], folder: Path, data: Path) -> float:
    return run(["train.py", *(f"{key}={value}" for key, value in settings.items()), *TRAINING], folder, data)


def nothing(count: int, folder: Path, data: Path) -> float:
    """Seconds for a sweep of `count` jobs that do next to nothing."""
    return run(["train.py", "-m", f"seed=range({count})", *NOTHING, f"sweep.name=idle{count}"], folder, data)


def run(arguments: list[str], folder: Path, data: Path) -> float:
    """Seconds that a command takes, from its start to its end."""
    environment = {**os.environ, "LITHYDRA_DATA": str(data.absolute())}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LithydraError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def runs_of(folder: Path, name: str) -> list[RunDir]:
    sweep = SweepDir(folder / "outputs" / "sweeps" / name)
    return [sweep.run(job) for job in sweep.read().jobs]


def training_seconds(run: RunDir) -> float:
    """The run's epochs, validation and checkpoints with them: the column `seconds` of metrics.csv."""
    return sum(float(row["seconds"]) for row in run.read_metrics())


def table(record: dict[str, Any]) -> Table:
    jobs, cores = record["jobs"], record["cores"]
    alone = jobs * sum(record["separate_seconds"]) / len(record["separate_seconds"])
    pure = record["sweep_training_seconds"] / cores
    idle = (record["of_16_idle_jobs_seconds"] - record["of_4_idle_jobs_seconds"]) / 12
    rows = [
        [f"{jobs} jobs as one sweep", f"{record['sweep_seconds']:.1f} s", ""],
        [f"{jobs} separate runs", f"{alone:.1f} s", ""],
        ["sweep over separate runs", f"{record['sweep_seconds'] / alone:.2f}", "at most 0.35"],
        [f"epochs of all jobs over {cores} cores", f"{pure:.1f} s", ""],
        ["sweep over these", f"{record['sweep_seconds'] / pure:.2f}", "at most 1.25"],
        ["one more job that does nothing", f"{idle:.2f} s", "at most 0.5 s"],
    ]
    return Table("Measured", ["measurement", "value", "wanted"], rows)


def markdown(record: dict[str, Any]) -> str:
    hardware = record["hardware"]
    lines = [
        "# What a sweep costs",
        "",
        "Written by `python benchmarks/benchmark_sweep.py --docs`.",
        "",
        f"- {hardware['cpu']}, {record['cores']} cores, {hardware['system']}",
        f"- commit {record['commit']}",
        "",
        f"The jobs: `{' '.join(TRAINING)}` with " + ", ".join(f"`{k}={','.join(v)}`" for k, v in AXES.items()) + ".",
        "A job that does nothing takes one optimizer step and tests nothing; its cost is the difference between",
        "sweeps of 4 and of 16 of them, over 12. Epochs are the column `seconds` of metrics.csv: training, validation,",
        "checkpoint.",
        "",
        table(record).markdown(),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
