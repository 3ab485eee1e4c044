"""Measure on a GPU what no CPU can show, in order of worth, and stop before the time is over.

python benchmarks/on_gpu.py --out outputs/on_gpu                       on a machine with a GPU; 7 minutes at most
python benchmarks/on_gpu.py --out outputs/on_gpu --quick --device cpu  does it run to its end? its numbers mean nothing

results.json has each figure as soon as there is one, with the card's name; the table comes last.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lithydra.errors import LithydraError
from lithydra.files import write_json
from lithydra.run.directory import RunDir
from speed.medians import epoch_seconds
from speed.processes import ROOT, machine, measure, run
from speed.workloads import WORKLOADS, Job

SEEDS, NUM_JOBS = (0, 1, 2), 8
NARROW = ("model.widths=[4,6,6]", "trainer.max_epochs=1")  # of a quick pass


@dataclass(frozen=True)
class Setting:
    """Where and how much is measured."""

    device: str
    data: Path
    out: Path
    quick: bool

    def accelerator(self, half: bool) -> str:
        return f"{self.device}_bf16" if half else self.device

    @property
    def limit(self) -> int | None:
        return 600 if self.quick else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json and of the runs")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder of mnist.npz and cifar10.npz")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--quick", action="store_true", help="on few images")
    parser.add_argument("--seconds", type=float, default=400, help="nothing is begun after these")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    setting = Setting(options.device, options.data.resolve(), options.out.resolve(), options.quick)
    record: dict[str, Any] = {**machine(setting.data, setting.out), "quick": options.quick, "figures": [], "failed": []}
    if options.device == "gpu" and not record["machine"]["gpus"]:
        print("error: --device gpu: torch finds no GPU here", file=sys.stderr)
        return 2
    end = time.monotonic() + options.seconds
    for name, task in tasks(setting):
        if time.monotonic() > end:
            record["failed"].append({"what": name, "why": "no time was left"})
            continue
        try:
            record["figures"] += [{"what": name, **figure} for figure in task()]
        except (LithydraError, OSError, subprocess.SubprocessError) as error:
            record["failed"].append({"what": name, "why": str(error)[-2000:]})
        write_json(setting.out / "results.json", record)
    show(record)
    return 1 if record["failed"] else 0


def tasks(setting: Setting) -> Iterator[tuple[str, Any]]:
    """Name and function of each measurement, what is worth most first."""
    for name in ("mnist_mlp", "cifar_cnn")[: 1 if setting.quick else None]:
        yield f"epoch of {name}", lambda name=name: epochs(setting, name, half=False)
    yield "epoch of cifar_cnn, bf16", lambda: epochs(setting, "cifar_cnn", half=True)
    for seed in SEEDS[: 1 if setting.quick else None]:
        yield f"cifar10_94, seed {seed}", lambda seed=seed: recipe(setting, seed)
    if setting.device == "gpu":
        yield "cifar10_94, compile=graph", lambda: recipe(setting, 0, "compile=graph")
    if not setting.quick:
        yield "epoch of cifar_alexnet", lambda: epochs(setting, "cifar_alexnet", half=False)
    yield "jobs of a sweep", lambda: sweeps(setting)
    yield "augmentation", lambda: augmentations(setting)


def epochs(setting: Setting, name: str, half: bool) -> list[dict[str, Any]]:
    """Seconds an epoch of the bare loop, of lithydra, of lithydra at one step an execution and with graphs."""
    workload = replace(WORKLOADS[name], limit=setting.limit or WORKLOADS[name].limit)
    accelerator = setting.accelerator(half)
    count = 2 if setting.quick else 4
    jobs = {
        "bare": Job(name, "bare", workload, count, accelerator),
        "lithydra": Job(name, "lithydra", workload, count, accelerator),
        "lithydra, a step an execution": Job(
            name, "lithydra", workload, count, accelerator, extra=("trainer.steps_per_execution=1",)
        ),
        "lithydra, compile=graph": Job(name, "lithydra", workload, count, accelerator, extra=("compile=graph",)),
    }
    if setting.quick:
        del jobs["lithydra, a step an execution"]
    if setting.device == "cpu":
        del jobs["lithydra, compile=graph"]
    seconds = {who: epoch_seconds(measure(job, setting.data, setting.out)) for who, job in jobs.items()}
    return [
        {"case": who, "seconds": value, "over the bare loop": value / seconds["bare"]} for who, value in seconds.items()
    ]


def recipe(setting: Setting, seed: int, *extra: str) -> list[dict[str, Any]]:
    """Accuracy with test-time views and without, seconds of training, and what was computed in them."""
    path = setting.out / "_".join(["cifar10_94", str(seed), *extra])
    quick = ["data.limit=2000", *NARROW] if setting.quick else []
    settings = ["experiment=cifar10_94", f"accelerator={setting.accelerator(True)}", f"seed={seed}", *quick, *extra]
    train(setting, *settings, f"run={path}")
    directory = RunDir(path)
    status, rows = directory.read_status(), directory.read_metrics()
    command = [sys.executable, str(ROOT / "scripts/evaluate.py"), f"run={path}", "tta=none", "--json"]
    env = {**os.environ, "LITHYDRA_DATA": str(setting.data.resolve())}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120).stdout
    return [
        {
            "case": "tta=flip_shift",
            "accuracy": status["metrics"]["test/acc"],
            "seconds": float(rows[-1]["training_seconds"]),
            **status["compute"],
        },
        {"case": "tta=none", "accuracy": json.loads(said)["metrics"]["test/acc"]},
    ]


def sweeps(setting: Setting) -> list[dict[str, Any]]:
    """Seconds of some jobs at once, and in turn."""
    limit = [f"data.limit={setting.limit or 10_000}"]
    jobs = 2 if setting.quick else NUM_JOBS
    common = ["-m", f"accelerator={setting.device}", "data=mnist", *limit, f"seed=range(0,{jobs})"]
    found = []
    for count in (jobs, 1):
        place = [f"sweep.n_jobs={count}", f"sweep.name=of_{count}", f"paths.sweeps={setting.out}"]
        seconds = train(setting, *common, "trainer.max_epochs=2", "callbacks=none", "logger=none", *place)
        found.append({"case": f"{jobs} jobs, {count} at a time", "seconds": seconds})
    return found


def augmentations(setting: Setting) -> list[dict[str, Any]]:
    """Images a second of each, on the device."""
    device = "cuda" if setting.device == "gpu" else "cpu"
    command = [sys.executable, str(ROOT / "benchmarks/augmentations.py"), "--device", device]
    command += ["--batches", "3" if setting.quick else "100"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    lines = [line.split() for line in said.splitlines() if line.endswith("images/s")]
    return [{"case": name, "images per second": float(speed.replace(",", ""))} for name, speed, _ in lines]


def train(setting: Setting, *settings: str) -> float:
    """Seconds of `python train.py` with these settings."""
    return run([sys.executable, str(ROOT / "train.py"), *settings], setting.out, setting.data, settings[0])


def show(record: dict[str, Any]) -> None:
    where = ", ".join(record["machine"]["gpus"]) or record["machine"]["cpu"]
    table = Table("what", "case", "figures", title=f"On {where}")
    for figure in record["figures"]:
        values = {key: value for key, value in figure.items() if key not in ("what", "case")}
        table.add_row(figure["what"], figure["case"], ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
    for failure in record["failed"]:
        table.add_row(failure["what"], "not measured", failure["why"].strip().splitlines()[-1])
    Console(highlight=False).print(table)
    print(json.dumps({"figures": len(record["figures"]), "not measured": len(record["failed"])}))


if __name__ == "__main__":
    sys.exit(main())
