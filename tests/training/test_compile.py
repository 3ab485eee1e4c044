"""compile=true, and compile=graph on a CPU: what is kept of a step outlives the next. A GPU replays in test_gpu.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch._aot_autograd.utils import make_boxed_func

import conftest
import lithydra
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


@pytest.mark.slow
def test_a_compiled_net_has_the_checkpoint_of_an_eager_one(run_train: RunTrain) -> None:
    counters.clear()
    eager, compiled = (run_train(*SMALL, "model.hidden=[8]", f"compile={how}") for how in ("false", "true"))
    assert counters["frames"]["ok"] > 0
    expected, found = weights(eager), weights(compiled)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert lithydra.load(compiled.path)(images).shape == (2, 10)  # where nothing is compiled
