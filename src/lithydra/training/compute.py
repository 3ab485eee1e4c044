"""What a training step costs, and on how many threads of the CPU it is computed."""

import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# With more threads than it has work for, a step gains nothing on a quiet machine, and beside other work it waits for
# threads that are not running: a small net takes ten times as long. By a count of the step's operations the number of
# threads is the same each time, and with it the last bits of the result; by a clock it would not be.
FLOPS_PER_THREAD = 0.06e9

PEAK_SIZE, PEAK_SECONDS = 1024, 0.05  # of the matrices, and for which they are multiplied


def flops_of(step: Callable[[], Any]) -> int:
    """Floating-point operations of a call: of matrix products and convolutions, those of the backward pass too."""
    with _Counter() as counter:
        step()
    return counter.flops


class _Counter(TorchDispatchMode):
    """Adds up what torch knows of each operation.

    Its own FlopCounterMode follows modules by hooks on gradients, too, which `torch.autograd.grad` does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


def settle_threads(chosen: int | str, flops: int, *, place: L.Trainer, before: int | None = None) -> None:
    """Compute from here on with `chosen` threads; auto: with as many as a step of `flops` has work for.

    Several processes have Lightning's number, and a GPU needs none.

    Args:
        before: With auto, those of the run that is resumed, where the machine has as many.
    """
    if place.world_size > 1 or place.strategy.root_device.type != "cpu":
        return
    most = all_threads()
    if chosen != "auto":
        torch.set_num_threads(int(chosen))
    elif "OMP_NUM_THREADS" not in os.environ:  # a person's own, or a sweep's
        torch.set_num_threads(min(most, before or max(1, round(flops / FLOPS_PER_THREAD))))


@cache
def all_threads() -> int:
    """As many as torch computes with when nobody has said how many."""
    return torch.get_num_threads()


def spent(trainer: L.Trainer, module: L.LightningModule, images_per_second: float | None) -> dict[str, Any]:
    """What status.json has of it: memory in bytes, and of each process FLOP/s and the most that can be had here."""
    device = trainer.strategy.root_device
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_memory()
    spent: dict[str, Any] = {} if memory is None else {"peak_memory": memory}
    if (flops := getattr(module, "step_flops", None)) and images_per_second:
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        spent["flops_per_second"] = flops * images_per_second / data.batch_size
        spent["peak"] = peak(device, str(trainer.precision))
    return spent


def _peak_memory() -> int | None:
    """Of this process, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a product of large matrices, in what a run of this precision multiplies: the most that can be had."""
    kind = {"bf": torch.bfloat16, "16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)
    matrix = torch.ones(PEAK_SIZE, PEAK_SIZE, dtype=kind, device=device)
    torch.mm(matrix, matrix)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product = torch.mm(matrix, matrix)
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * PEAK_SIZE**3 / best
