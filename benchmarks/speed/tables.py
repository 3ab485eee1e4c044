"""The summary as tables, for the terminal and for docs/benchmarks.md."""

from dataclasses import dataclass
from typing import Any

from rich import table as rich_table

from .workloads import CONTENDERS, NEIGHBORS, WORKLOADS

OWN = "OpenMP's own"
RIVALS = [who for who in CONTENDERS if who != "lithydra"]


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[str]]

    def rich(self) -> rich_table.Table:
        table = rich_table.Table(*self.header, title=self.title)
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        return "\n".join([f"## {self.title}", "", *("| " + " | ".join(line) + " |" for line in lines)])


def tables(summary: dict[str, Any]) -> list[Table]:
    found = []
    if summary["workloads"]:
        found += [build(summary["workloads"]) for build in (_times, _ratios, _losses)]
    found += [_scaling(axis, times) for axis, times in summary["scaling"].items()]
    if "bf16" in summary:
        found.append(_bf16(summary["bf16"]))
    if "auto" in summary:
        found.append(_auto(summary["auto"]))
    if "operators" in summary:
        found.append(_operators(summary["operators"]))
    if "busy" in summary:
        found.append(_busy(summary["busy"]))
    if "waits" in summary:
        found.append(_waits(summary["waits"]))
    if "startup" in summary:
        found.append(_startup(summary["startup"]))
    if "memory" in summary:
        found.append(_memory(summary["memory"]))
    if "looking" in summary:
        found.append(_looking(summary["looking"]))
    return found


def markdown(record: dict[str, Any], picture: str) -> str:
    """The page docs/benchmarks.md."""
    machine, versions = record["machine"], record["versions"]
    where = [
        ", ".join(
            [machine["cpu"], f"{machine['cores']} cores", f"{machine['torch_threads']} threads", *machine["gpus"]]
        ),
        machine["system"],
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit {record['commit']}" + (" with uncommitted changes" if record["uncommitted"] else ""),
    ]
    contenders = [f"- **{name}**: {what}" for name, what in CONTENDERS.items()]
    overrides = {run["measurement"]: run["overrides"] for run in record["runs"] if run["measurement"] in WORKLOADS}
    nets = [f"- **{name}**: `{' '.join(overrides[name])}`" for name in WORKLOADS if name in overrides]
    parts = [
        "# Benchmarks",
        f"Written by `python benchmarks/benchmark.py --device {record['device']} --docs`.",
        "\n".join(f"- {line}" for line in where),
        "Each measurement is a fresh process, the contenders take turns, and the value is the median of the "
        "repetitions. An epoch counts from its start to the start of the next: training, validation, metrics, "
        "checkpoints and logs. The first epoch of a process warms up and does not count.",
        "\n".join(contenders),
        "\n".join(nets),
        "On a GPU: not measured." if record["device"] == "cpu" else "",
        f"![Epoch times]({picture})",
        *(table.markdown() for table in tables(record["summary"])),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _times(workloads: dict[str, Any]) -> Table:
    def cell(workload: dict[str, Any], who: str) -> str:
        if who not in workload["seconds"]:
            return ""
        seconds, (low, high) = workload["seconds"][who], workload["range"][who]
        return f"{seconds:.3g} ± {50 * (high - low) / seconds:.0f}%"

    rows = [
        [name, f"{workload['num_train']:,}", *(cell(workload, who) for who in CONTENDERS)]
        for name, workload in workloads.items()
    ]
    repetitions = min(workload["repetitions"] for workload in workloads.values())
    title = f"Seconds an epoch: median ± half the range of {repetitions} processes"
    return Table(title, ["workload", "images", *CONTENDERS], rows)


def _ratios(workloads: dict[str, Any]) -> Table:
    rows = []
    for name, workload in workloads.items():
        ratios = [workload["ratios"].get(f"lithydra/{who}") for who in RIVALS]
        speed = workload["images_per_second"].get("lithydra")
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in (*ratios, workload.get("fastest_ratio"))]
        rows.append([name, *cells, "" if speed is None else f"{speed:,.0f}"])
    header = ["workload", *RIVALS, "bare, fastest epoch of all", "lithydra's images/s"]
    return Table("lithydra's time over that of", header, rows)


def _losses(workloads: dict[str, Any]) -> Table:
    rows = [
        [name, *(f"{workload['train_loss'][who]:.4f}" if who in workload["train_loss"] else "" for who in CONTENDERS)]
        for name, workload in workloads.items()
    ]
    return Table("Training loss of the last epoch: they do the same work", ["workload", *CONTENDERS], rows)


def _scaling(axis: str, times: dict[str, dict[str, float]]) -> Table:
    points = list(next(iter(times.values())))
    title = {"data": "training and validation images", "depth": "hidden layers", "batch_size": "batch size"}[axis]
    rows = [[who, *(f"{some[point]:.3g}" for point in points)] for who, some in times.items()]
    if axis == "data":
        growth = [f"{who} {some[points[-1]] / some[points[0]]:.2f}" for who, some in times.items()]
        title += f": from {int(points[0]):,} to {int(points[-1]):,}, times {', '.join(growth)}"
    return Table(f"Seconds an epoch by {title}", ["contender", *(f"{int(point):,}" for point in points)], rows)


def _bf16(values: dict[str, float]) -> Table:
    rows = [[name, f"{values[f'{name}_seconds']:.3g}"] for name in ("fp32", "bf16")]
    title = f"cifar_cnn in bf16: {values['speedup']:.2f}x the speed of fp32"
    return Table(title, ["precision", "seconds an epoch"], rows)


def _operators(operators: dict[str, dict[str, float]]) -> Table:
    rows = [
        [name, f"{times['fp32']:.2f}", f"{times['bf16']:.2f}", f"{times['fp32'] / times['bf16']:.2f}"]
        for name, times in operators.items()
    ]
    title = "Milliseconds of a bare step of cifar_cnn, by operator: what bf16 speeds up"
    return Table(title, ["operator", "fp32", "bf16", "fp32/bf16"], rows)


def _busy(workloads: dict[str, Any]) -> Table:
    rows = []
    for name, by_count in workloads.items():
        counts = list(by_count)
        for what, key in (("whole command", "seconds"), ("epoch", "epoch_seconds")):
            times = [by_count[count][key] for count in counts]
            cells = [f"{seconds:.3g}" for seconds in times]
            rows.append([f"{name}, {what}", str(by_count["0"]["threads"]), *cells, f"{times[-1] / times[0]:.2f}"])
    header = ["workload", "threads", *(f"beside {count}" for count in NEIGHBORS), f"{NEIGHBORS[-1]} over none"]
    return Table("Seconds beside other processes that compute all the time", header, rows)


def _waits(workloads: dict[str, Any]) -> Table:
    rows = [
        [
            f"{name}, {wait}",
            *(f"{by_count[str(count)]:.3g}" for count in NEIGHBORS),
            f"{by_count['0'] / by_wait[OWN]['0']:.3f}",
        ]
        for name, by_wait in workloads.items()
        for wait, by_count in by_wait.items()
    ]
    header = ["workload, how its threads wait", *(f"beside {count}" for count in NEIGHBORS), "alone, over OpenMP's own"]
    return Table("Seconds of the whole command with two threads, by how they wait for each other", header, rows)


def _auto(nets: dict[str, Any]) -> Table:
    precisions = list(next(iter(nets.values()))["seconds"])
    rows = [
        [
            name,
            *(f"{1000 * found['seconds'][precision]:.3g}" for precision in precisions),
            ", ".join(f"{precision} {count} times" for precision, count in found["taken"].items()),
        ]
        for name, found in nets.items()
    ]
    return Table("Milliseconds of a step, as trainer.precision=auto times it", ["net", *precisions, "taken"], rows)


def _startup(values: dict[str, float]) -> Table:
    rows = [
        ['`python -c "import lightning, hydra, torchvision"`', f"{values['import_seconds']:.2f}"],
        ["reading mnist.npz", f"{values['load_seconds']:.2f}"],
        ["`python train.py data=mnist` to the end of its first step", f"{values['first_step_seconds']:.2f}"],
        ["ratio, reading left out", f"{values['ratio']:.2f}"],
    ]
    return Table("Start-up", ["what", "seconds"], rows)


def _memory(values: dict[str, float]) -> Table:
    rows = [
        [who, f"{values[f'{who}_bytes'] / 2**20:,.0f}", f"{values[f'{who}_import_bytes'] / 2**20:,.0f}"]
        for who in ("bare", "lithydra")
    ]
    title = f"Peak memory on CIFAR-10 in MiB: lithydra/bare {values['ratio']:.2f}"
    return Table(title, ["contender", "beyond the imports", "imports"], rows)


def _looking(values: dict[str, float]) -> Table:
    once, whole = values["once_seconds"], values["ten_epochs_seconds"]
    rows = [
        ["seconds an epoch, with them", f"{values['with_seconds']:.3g}"],
        ["without: `logger=none ~callbacks.plots`", f"{values['without_seconds']:.3g}"],
        ["ratio", f"{values['epoch_ratio']:.3f}"],
        ["seconds once a run, for the pictures and run.html", f"{once:.2f}"],
        ["share of ten epochs of all 50,000 images", f"{once / whole:.1%}"],
    ]
    return Table("What TensorBoard, pictures and run.html cost, on cifar_cnn", ["what", "value"], rows)
