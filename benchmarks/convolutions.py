"""What the convolutions of a run's net reach by themselves on this machine, beside what its training has reached.

python benchmarks/convolutions.py outputs/runs/RUN
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

import lithydra
from lithydra.errors import ConfigError, LithydraError
from lithydra.run.directory import RunDir
from lithydra.training.compute import flops_of

REPETITIONS = 7  # of each, of which the median counts


class Recorder(TorchDispatchMode):
    """The arguments of each convolution that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.convolution:
            self.found.append(args)
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="directory of a finished run")
    try:
        compare(RunDir.open(parser.parse_args().run))
    except LithydraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def compare(run: RunDir) -> None:
    """Time each convolution of a batch of the run, forward and backward, and print FLOP/s.

    Raises:
        ConfigError: The run does not say how fast it was, or its net has no convolution.
    """
    reached = run.read_status().get("compute", {}).get("flops_per_second")
    if reached is None:
        raise ConfigError(f"run={run.path}: does not say how many operations a second it computed")
    model = lithydra.load(run.path, "last")
    config = DictConfig(model.record["config"])
    size = min(config.data.batch_size, 512)
    kind = torch.bfloat16 if str(config.trainer.precision).startswith("bf16") else torch.float32
    images = torch.rand(size, *model.record["data"]["image_shape"]).to(memory_format=torch.channels_last)
    with Recorder() as recorder, torch.no_grad(), torch.autocast("cpu", kind, enabled=kind is torch.bfloat16):
        model.net(images)
    if not recorder.found:
        raise ConfigError(f"run={run.path}: its net has no convolution")
    table = Table("input", "weight", "GFLOP", "GFLOP/s", title=f"Convolutions of {size} images, {kind}")
    flops = seconds = 0.0
    for place, arguments in enumerate(recorder.found):
        step = training_step(arguments, needs_input_gradient=place > 0)
        count, took = flops_of(step), seconds_of(step)
        shapes = (" x ".join(map(str, tensor.shape)) for tensor in arguments[:2])
        table.add_row(*shapes, f"{count / 1e9:.1f}", f"{count / took / 1e9:.0f}")
        flops, seconds = flops + count, seconds + took
    table.add_row("all of them", "", f"{flops / 1e9:.1f}", f"{flops / seconds / 1e9:.0f}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    share = reached * seconds / flops
    console.print(
        f"the run: {reached / 1e9:.0f} GFLOP/s in training, {share:.0%} of that; {torch.get_num_threads()} threads"
    )


def training_step(arguments: tuple[Any, ...], *, needs_input_gradient: bool) -> Callable[[], None]:
    """Forward and backward of one convolution, on random numbers of its shapes."""
    inputs, weight, _, *how = arguments
    x, w = torch.rand_like(inputs), torch.rand_like(weight)  # with their layouts in memory
    x.requires_grad_(needs_input_gradient)
    w.requires_grad_()
    gradient = torch.rand_like(torch.ops.aten.convolution(x, w, None, *how))
    wanted = [tensor for tensor in (x, w) if tensor.requires_grad]

    def step() -> None:
        torch.autograd.grad(torch.ops.aten.convolution(x, w, None, *how), wanted, gradient)

    return step


def seconds_of(step: Callable[[], None]) -> float:
    step()
    times: list[float] = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return median(times)


if __name__ == "__main__":
    main()
