"""Measure lithydra beside a bare PyTorch loop, a DataLoader script and stock Lightning.

python benchmarks/benchmark.py
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lithydra.errors import ConfigError, LithydraError, nearest
from lithydra.files import write_json
from speed.medians import summarize
from speed.processes import ROOT, machine, measure
from speed.tables import markdown, tables
from speed.workloads import CONTENDERS, MEASUREMENTS, Job, plan


def main() -> None:
    try:
        benchmark(arguments())
    except LithydraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def benchmark(options: argparse.Namespace) -> None:
    """Measure, and write benchmark.json after each process, so that an interrupted benchmark keeps what it has."""
    jobs = plan(options.only, options.contenders, options.epochs, options.device, options.limit)
    jobs = jobs if options.repetitions else []
    check_data(jobs, options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    path: Path = options.output / "benchmark.json"
    record = {**machine(options.data, options.output), "device": options.device}
    if options.device == "gpu" and not record["machine"]["gpus"]:
        raise ConfigError("--device gpu: torch finds no GPU here")
    record["runs"] = earlier_runs(path, record, jobs) if options.add else []
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=len(jobs) * options.repetitions)
        for repetition in range(options.repetitions):
            for job in in_turn(jobs, repetition):
                progress.update(task, description=str(job))
                record["runs"].append({**describe(job), **measure(job, options.data, options.output)})
                progress.advance(task)
                write_json(path, record)
    record["summary"] = summarize(record["runs"])
    write_json(path, record)
    for table in tables(record["summary"]):
        console.print(table.rich())
    draw_and_write(record, options.output, options.docs, console)


def in_turn(jobs: list[Job], repetition: int) -> list[Job]:
    """Every other repetition goes backwards, so that no contender always follows the same one."""
    return jobs if repetition % 2 == 0 else jobs[::-1]


def describe(job: Job) -> dict[str, Any]:
    names = ("measurement", "contender", "point", "accelerator", "epochs")
    return {**{name: getattr(job, name) for name in names}, "overrides": job.workload.overrides()}


def earlier_runs(path: Path, record: dict[str, Any], jobs: list[Job]) -> list[dict[str, Any]]:
    """The runs in `path`. Raises ConfigError where they cannot be put together with those of `jobs`."""
    if not path.exists():
        raise ConfigError(f"--add: there is no {path} to add to")
    earlier = json.loads(path.read_text())
    if any(earlier[key] != record[key] for key in ("machine", "device")):
        raise ConfigError(f"--add: {path} was measured on another machine or device")
    overrides = {(job.measurement, job.point): job.workload.overrides() for job in jobs}
    for run in earlier["runs"]:
        if overrides.get((run["measurement"], run["point"]), run["overrides"]) != run["overrides"]:
            raise ConfigError(f"--add: {path} holds {run['measurement']} with another --limit")
    return earlier["runs"]


def check_data(jobs: list[Job], data: Path) -> None:
    for name in sorted({job.workload.data for job in jobs} - {"digits"}):  # they come with a package
        if not (data / f"{name}.npz").is_file():
            raise ConfigError(
                f"--data {data}: {name}.npz is not there; `python train.py data={name} trainer.max_steps=1` makes "
                "data/ complete"
            )


def draw_and_write(record: dict[str, Any], output: Path, docs: bool, console: Console) -> None:
    from speed.plot import draw  # matplotlib, after the measurements

    draw(record["summary"], output / "benchmark.png")
    console.print(f"written to {output}: benchmark.json benchmark.png")
    if docs:
        draw(record["summary"], ROOT / "docs" / "benchmarks.png")
        (ROOT / "docs" / "benchmarks.md").write_text(markdown(record, "benchmarks.png"))
        console.print("written to docs: benchmarks.md benchmarks.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=names(MEASUREMENTS), default=list(MEASUREMENTS), metavar="NAME,…")
    parser.add_argument("--contenders", type=names(CONTENDERS), default=list(CONTENDERS), metavar="NAME,…")
    parser.add_argument(
        "--repetitions",
        type=at_least(0),
        default=5,
        help="processes for each measurement; 0: only draw, with --add",
    )
    parser.add_argument(
        "--epochs", type=at_least(2), help="in each process, in place of each workload's own; the first does not count"
    )
    parser.add_argument("--limit", type=at_least(1), help="training images, in place of each workload's own number")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--data", type=Path, default=Path("data"), help="directory of mnist.npz and the others")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmark"))
    parser.add_argument("--add", action="store_true", help="keep the measurements in --output, and add to them")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md")
    return parser.parse_args()


def names(choices: Sequence[str] | dict[str, str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in choices:
                hint = nearest(name, choices)
                raise argparse.ArgumentTypeError(f"{name}: choose of {', '.join(choices)}.{hint}")
        return given

    return parse


def at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least {least}")
        return int(text)

    return parse


if __name__ == "__main__":
    main()
