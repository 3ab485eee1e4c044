"""What is measured, and the order of the measurements. Torch is not imported here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

LEARNING_RATE = 0.001
SEED = 0
VAL_FRACTION = 0.1
EVAL_BATCH_SIZE = 1000

CONTENDERS = {
    "bare": "a bare PyTorch loop over uint8 images in memory",
    "lithydra": "`train.py` with its logger, metrics, checkpoints and progress bar",
    "dataloader": "a plain PyTorch script: PIL image, ToTensor, Normalize per sample in a DataLoader with two workers",
    "lightning": "stock Lightning: a DataLoader over float tensors in memory, `self.log` of loss and accuracy a step",
}


@dataclass(frozen=True)
class Workload:
    """A net on a data set, trained by Adam.

    Attributes:
        settings: what the model's YAML file sets, where it differs.
        epochs: in one process, so that it trains for some seconds; the first does not count.
        limit: training images, those of the validation part included; None: all.
    """

    data: str
    batch_size: int
    model: str
    settings: dict[str, Any]
    epochs: int = 3
    limit: int | None = None

    def overrides(self) -> list[str]:
        """The command line that makes `train.py` train this."""
        model = [f"model.{key}={json.dumps(value)}" for key, value in self.settings.items()]
        limit = [f"data.limit={self.limit}"] if self.limit else []
        data = [f"data={self.data}", f"data.batch_size={self.batch_size}", f"data.eval_batch_size={EVAL_BATCH_SIZE}"]
        common = [f"data.val_fraction={VAL_FRACTION}", "optimizer=adam", f"lr={LEARNING_RATE}", f"seed={SEED}"]
        return [*data, *limit, f"model={self.model}", *model, *common]


WORKLOADS = {
    "mnist_mlp": Workload("mnist", 100, "mlp", {"hidden": [100], "batch_norm": True}, epochs=11),
    "fashion_mlp": Workload("fashion_mnist", 32, "mlp", {"hidden": [1000]}),
    "cifar_cnn": Workload("cifar10", 128, "cnn", {"channels": [32, 64, 128]}, epochs=4, limit=10_000),
    "cifar_alexnet": Workload("cifar10", 128, "alexnet", {}, epochs=4, limit=2_500),
}
# The slow contenders: their epochs are long enough to time one by one.
MOST_EPOCHS = {"dataloader": 3, "lightning": 3}
SCALING = ("data", "depth", "batch_size")
# `python train.py`, and two of the others: beside as many processes that do nothing but compute.
BUSY = {
    "default": Workload("digits", 16, "mlp", {"hidden": [100]}, epochs=30),
    **{name: WORKLOADS[name] for name in ("mnist_mlp", "cifar_cnn")},
}
# Of which `trainer.precision=auto` times a step in both.
IN_BOTH_PRECISIONS = {**WORKLOADS, "cifar_airbench": Workload("cifar10", 256, "airbench", {}, limit=1_000)}
NEIGHBORS = (0, 1, 2)
# How long a thread that waits for another keeps its core: what train.py sets, what GNU OpenMP does, and not at all.
WAITS = {"train.py's": {}, "OpenMP's own": {"GOMP_SPINCOUNT": "300000"}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
SETS = (*(f"scaling_{axis}" for axis in SCALING), *(f"{what}_{name}" for what in ("busy", "waits") for name in BUSY))
MEASUREMENTS = (*WORKLOADS, "startup", "memory", "looking", *SETS, "bf16", "auto")
MNIST_IMAGES, CIFAR_IMAGES = 60_000, 50_000
LOOKING = {"with": (), "without": ("logger=none", "~callbacks.plots")}  # TensorBoard, pictures and run.html


@dataclass(frozen=True)
class Job:
    """One fresh process.

    Attributes:
        contender: one of `CONTENDERS`, "imports" or "operators".
        accelerator: the choice in conf/accelerator/.
        point: what varies within the measurement: the number on the x axis or of neighbors, or the accelerator.
        extra: of train.py's command line, besides what the workload is.
        neighbors: processes beside it that do nothing but compute.
        environment: variables of the process, besides those that are there.
    """

    measurement: str
    contender: str
    workload: Workload
    epochs: int
    accelerator: str
    point: int | str | None = None
    extra: tuple[str, ...] = ()
    neighbors: int = 0
    environment: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.measurement, self.contender, self.point) if part is not None)


def plan(
    measurements: Sequence[str],
    contenders: Sequence[str],
    epochs: int | None,
    accelerator: str,
    limit: int | None = None,
) -> list[Job]:
    """The jobs of one repetition. `epochs` and `limit` take the place of each workload's own."""

    def limited(name: str) -> Workload:
        return replace(WORKLOADS[name], limit=limit) if limit else WORKLOADS[name]

    def job(measurement: str, contender: str, workload: Workload, **changes: Any) -> Job:
        usual = min(workload.epochs, MOST_EPOCHS.get(contender, workload.epochs))
        settings = {"epochs": epochs or usual, "accelerator": accelerator, **changes}
        return Job(measurement, contender, workload, **settings)

    jobs = [job(name, who, limited(name)) for name in WORKLOADS if name in measurements for who in contenders]
    if "startup" in measurements:
        jobs += [job("startup", who, limited("mnist_mlp"), epochs=1) for who in ("imports", "bare", "lithydra")]
    if "memory" in measurements:
        jobs += [job("memory", who, limited("cifar_cnn"), epochs=1) for who in ("bare", "lithydra")]
    if "looking" in measurements:
        jobs += [job("looking", "lithydra", limited("cifar_cnn"), point=p, extra=some) for p, some in LOOKING.items()]
    for axis, points in scaling_points(limited("mnist_mlp")).items():
        if f"scaling_{axis}" in measurements:
            rivals = [who for who in ("bare", "lithydra") if who in contenders]
            jobs += [job(f"scaling_{axis}", who, some, point=point) for point, some in points.items() for who in rivals]
    for name, workload in BUSY.items():
        some = replace(workload, limit=limit) if limit else workload
        if f"busy_{name}" in measurements:
            jobs += [job(f"busy_{name}", "lithydra", some, point=count, neighbors=count) for count in NEIGHBORS]
        if f"waits_{name}" in measurements:
            jobs += [job(f"waits_{name}", "lithydra", some, **settings) for settings in ways_to_wait()]
    if "bf16" in measurements:
        for point in (accelerator, f"{accelerator}_bf16"):
            jobs.append(job("bf16", "lithydra", limited("cifar_cnn"), accelerator=point, point=point))
            if accelerator == "cpu":
                jobs.append(job("operators", "operators", limited("cifar_cnn"), accelerator=point, point=point))
    if "auto" in measurements:
        for name, workload in IN_BOTH_PRECISIONS.items():
            some, extra = replace(workload, limit=limit or 1_000), ("trainer.precision=auto", "test=false")
            jobs.append(job("auto", "lithydra", some, epochs=2, point=name, extra=extra))
    return jobs


def ways_to_wait() -> list[dict[str, Any]]:
    """Of two threads, beside each number of neighbors."""
    return [
        {
            "point": f"{wait}, {count}",
            "neighbors": count,
            "environment": tuple(variables.items()),
            "extra": ("accelerator.threads=2",),
        }
        for wait, variables in WAITS.items()
        for count in NEIGHBORS
    ]


def scaling_points(base: Workload) -> dict[str, dict[int, Workload]]:
    """By axis: the workload at each point."""
    most = base.limit or MNIST_IMAGES
    sizes = [most * factor // 8 for factor in (1, 2, 4, 8)]
    return {
        "data": {size: replace(base, limit=size) for size in sizes},
        "depth": {depth: replace(base, settings={**base.settings, "hidden": [100] * depth}) for depth in (1, 2, 4, 8)},
        "batch_size": {size: replace(base, batch_size=size) for size in (16, 32, 64, 128, 256, 512, 1024)},
    }
