"""compile=graph on a CPU: what is kept of a step outlives the next one. Whether a GPU replays it, test_gpu.py tells."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func

import conftest
from conftest import SMALL, RunTrain, rows, weights
from lithydra.training import build

Outputs = tuple[Any, ...]


def replaying(graph: fx.GraphModule, inputs: list[Any]) -> Callable[[list[Any]], Outputs]:
    """Outputs in memory that each call overwrites, as those of a CUDA graph are."""
    memory: dict[int, Tensor] = {}

    def call(*arguments: Any) -> Outputs:
        outputs = [*graph(*arguments)]
        for i, output in enumerate(outputs):
            if isinstance(output, Tensor):
                outputs[i] = memory.setdefault(i, output.detach().clone()).copy_(output).detach()
        return tuple(outputs)

    return make_boxed_func(call)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = aot_autograd(fw_compiler=replaying, bw_compiler=replaying, inference_compiler=replaying)
    monkeypatch.setattr(conftest, "check", lambda config: None)  # which refuses graphs on a CPU
    monkeypatch.setattr(build, "GRAPHS", {"backend": backend, "dynamic": False})
    torch._dynamo.reset()


@pytest.mark.parametrize("settings", [(), ("tta=flip", "model.batch_norm=true")])
def test_a_replayed_graph_counts_as_the_eager_net(run_train: RunTrain, graphs: None, settings: tuple[str, ...]) -> None:
    common = (*SMALL, *settings, "model.hidden=[8]", "trainer.steps_per_execution=5")
    eager, graph = (run_train(*common, f"compile={how}") for how in ("false", "graph"))
    assert rows(graph) == rows(eager)
    assert all(torch.equal(value, weights(graph)[key]) for key, value in weights(eager).items())
