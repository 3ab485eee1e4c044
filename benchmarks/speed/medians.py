"""From the raw measurements to medians and ratios."""

from collections import Counter
from collections.abc import Iterable
from statistics import median
from typing import Any

from .workloads import BUSY, CIFAR_IMAGES, SCALING, WORKLOADS

Run = dict[str, Any]


def summarize(runs: list[Run]) -> dict[str, Any]:
    """Medians over repetitions, of each measurement that `runs` hold."""
    summary: dict[str, Any] = {"workloads": {}, "scaling": {}}
    for name in WORKLOADS:
        if chosen := _of(runs, name):
            summary["workloads"][name] = _workload(chosen)
    for axis in SCALING:
        if chosen := _of(runs, f"scaling_{axis}"):
            summary["scaling"][axis] = _scaling(chosen)
    others = {"startup": _startup, "memory": _memory, "looking": _looking, "bf16": _bf16, "auto": _auto}
    for name, settle in others.items():
        if chosen := _of(runs, name):
            summary[name] = settle(chosen)
    busy = {name: _busy(chosen) for name in BUSY if (chosen := _of(runs, f"busy_{name}"))}
    if busy:
        summary["busy"] = busy
    waits = {name: _waits(chosen) for name in BUSY if (chosen := _of(runs, f"waits_{name}"))}
    if waits:
        summary["waits"] = waits
    if chosen := _of(runs, "operators"):
        summary["operators"] = _operators(chosen)
    return summary


def epoch_seconds(run: Run) -> float:
    """The median epoch of one process; the first one warms up."""
    return median(run["epoch_seconds"][1:])


def _of(runs: Iterable[Run], measurement: str) -> list[Run]:
    return [run for run in runs if run["measurement"] == measurement]


def _by(key: str, runs: Iterable[Run]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(run[key], []).append(run)
    return groups


def _median_of(key: str, runs: Iterable[Run]) -> float:
    return median(run[key] for run in runs)


def _workload(runs: list[Run]) -> dict[str, Any]:
    contenders = _by("contender", runs)
    times = {who: [epoch_seconds(run) for run in group] for who, group in contenders.items()}
    medians = {who: median(values) for who, values in times.items()}
    ours = medians.get("lithydra")
    # The fastest epoch tells the contenders apart where the machine's own speed changes from one epoch to the next.
    fastest = {who: min(min(run["epoch_seconds"][1:]) for run in group) for who, group in contenders.items()}
    return {
        "num_train": runs[0]["num_train"],
        "repetitions": min(map(len, times.values())),
        "seconds": medians,
        "range": {who: [min(values), max(values)] for who, values in times.items()},
        "ratios": {f"lithydra/{who}": ours / medians[who] for who in medians if who != "lithydra"} if ours else {},
        "fastest": fastest,
        "fastest_ratio": fastest["lithydra"] / fastest["bare"] if {"lithydra", "bare"} <= fastest.keys() else None,
        "images_per_second": {who: runs[0]["num_train"] / value for who, value in medians.items()},
        "train_loss": {who: _median_of("train_loss", group) for who, group in contenders.items()},
    }


def _startup(runs: list[Run]) -> dict[str, float]:
    contenders = _by("contender", runs)
    imports = _median_of("seconds", contenders["imports"])
    load = _median_of("load_seconds", contenders["bare"])
    first_step = _median_of("first_step_seconds", contenders["lithydra"])
    return {
        "import_seconds": imports,
        "load_seconds": load,
        "first_step_seconds": first_step,
        "ratio": (first_step - load) / imports,
    }


def _memory(runs: list[Run]) -> dict[str, float]:
    beyond = {
        who: median(run["peak_bytes"] - run["import_bytes"] for run in group)
        for who, group in _by("contender", runs).items()
    }
    imports = {who: _median_of("import_bytes", group) for who, group in _by("contender", runs).items()}
    return {
        "bare_bytes": beyond["bare"],
        "lithydra_bytes": beyond["lithydra"],
        "bare_import_bytes": imports["bare"],
        "lithydra_import_bytes": imports["lithydra"],
        "ratio": beyond["lithydra"] / beyond["bare"],
    }


def _looking(runs: list[Run]) -> dict[str, float]:
    """Seconds an epoch with and without, and what a run takes longer outside its epochs."""
    points = _by("point", runs)
    epochs = {point: median(map(epoch_seconds, some)) for point, some in points.items()}
    outside = {
        point: median(run["seconds"] - sum(run["epoch_seconds"]) for run in some) for point, some in points.items()
    }
    return {
        "with_seconds": epochs["with"],
        "without_seconds": epochs["without"],
        "epoch_ratio": epochs["with"] / epochs["without"],
        "once_seconds": outside["with"] - outside["without"],
        "ten_epochs_seconds": 10 * epochs["with"] * CIFAR_IMAGES / runs[0]["num_train"],
    }


def _busy(runs: list[Run]) -> dict[str, dict[str, float]]:
    """By the number of neighbors: seconds of the whole command, and of an epoch."""
    return {
        str(count): {
            "seconds": _median_of("seconds", some),
            "epoch_seconds": median(map(epoch_seconds, some)),
            "threads": some[0]["trainer"]["threads"],
        }
        for count, some in sorted(_by("point", runs).items())
    }


def _waits(runs: list[Run]) -> dict[str, dict[str, float]]:
    """By how its two threads wait and by the number of neighbors: seconds of the whole command."""
    seconds = {point: _median_of("seconds", some) for point, some in _by("point", runs).items()}
    found: dict[str, dict[str, float]] = {}
    for point, value in seconds.items():
        wait, _, count = point.rpartition(", ")
        found.setdefault(wait, {})[count] = value
    return found


def _auto(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """By net: seconds of a step in each precision, and which was taken how often."""
    return {
        name: {
            "seconds": {
                precision: median(run["trainer"]["step_seconds"][precision] for run in some)
                for precision in some[0]["trainer"]["step_seconds"]
            },
            "taken": dict(Counter(run["trainer"]["precision"] for run in some)),
        }
        for name, some in _by("point", runs).items()
    }


def _scaling(runs: list[Run]) -> dict[str, dict[str, float]]:
    """By contender: median epoch in seconds at each point, from the smallest on."""
    return {
        who: {str(point): median(map(epoch_seconds, some)) for point, some in sorted(_by("point", group).items())}
        for who, group in _by("contender", runs).items()
    }


def _by_precision(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Those in fp32, those in bf16."""
    half = [run for run in runs if str(run["point"]).endswith("_bf16")]
    return [run for run in runs if run not in half], half


def _operators(runs: list[Run]) -> dict[str, dict[str, float]]:
    """By operator: milliseconds a step in fp32 and in bf16."""
    full, half = _by_precision(runs)
    return {
        name: {
            precision: median(run["milliseconds"][name] for run in some)
            for precision, some in (("fp32", full), ("bf16", half))
        }
        for name in runs[0]["milliseconds"]
    }


def _bf16(runs: list[Run]) -> dict[str, float]:
    full, half = _by_precision(runs)
    seconds = [median(map(epoch_seconds, some)) for some in (full, half)]
    return {
        "fp32_seconds": seconds[0],
        "bf16_seconds": seconds[1],
        "speedup": seconds[0] / seconds[1],
    }
