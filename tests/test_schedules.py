import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lithydra.schedules import warmup_cosine

CONF = Path(__file__).parents[1] / "conf"
LR = 0.5
TOTAL = 40


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=LR, momentum=0.9)


def learning_rates(scheduler: Any, optimizer: torch.optim.Optimizer, num_steps: int = TOTAL) -> list[float]:
    """The rate that each step uses."""
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(0.5)
        else:
            scheduler.step()
    return rates


def from_config(name: str, optimizer: torch.optim.Optimizer) -> Any:
    root = OmegaConf.create(
        {"lr": LR, "monitor": {"mode": "max"}, "scheduler": OmegaConf.load(CONF / f"scheduler/{name}.yaml")}
    )
    arguments = OmegaConf.to_container(root.scheduler, resolve=True)
    assert isinstance(arguments, dict)
    assert arguments.pop("interval") in ("step", "epoch")
    return instantiate({key: TOTAL if value == "total" else value for key, value in arguments.items()})(optimizer)


def through_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def test_warmup_cosine_rises_to_lr_and_ends_at_the_final_factor() -> None:
    optimizer = sgd()
    rates = learning_rates(warmup_cosine(optimizer, TOTAL, warmup_fraction=0.25, final_lr_factor=0.1), optimizer)
    assert rates[:11] == pytest.approx([LR * step / 11 for step in range(1, 12)])
    assert rates[25] == pytest.approx(LR * 0.55)  # half of the decay
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert LR * 0.1 < rates[-1] < LR * 0.11
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR * 0.1)


@pytest.mark.parametrize("warmup_fraction", [0.0, 1.0])
def test_warmup_cosine_may_be_all_decay_or_all_warmup(warmup_fraction: float) -> None:
    optimizer = sgd()
    rates = learning_rates(warmup_cosine(optimizer, TOTAL, warmup_fraction), optimizer)
    assert rates == sorted(rates, reverse=warmup_fraction == 0)
    assert max(rates) == pytest.approx(LR, rel=0.03)


def test_warmup_cosine_keeps_the_ratio_of_parameter_groups() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:], "lr": LR / 10}], lr=LR)
    learning_rates(warmup_cosine(optimizer, TOTAL), optimizer, num_steps=20)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 * optimizer.param_groups[1]["lr"])


SHAPES: dict[str, dict[int, float]] = {  # rate at a step, as a part of lr
    "plateau": {0: 1, 6: 1, 7: 0.1},
    "step": {9: 1, 10: 0.1, 20: 0.01},
    "multistep": {9: 1, 10: 0.1, 15: 0.01},
    "exponential": {0: 1, 1: 0.95, 10: 0.95**10},
    "linear": {0: 1, 20: 0.5, 39: 1 / 40},
    "cosine": {0: 1, 20: 0.5, 39: 0.00154},
    "warmup_cosine": {0: 1 / 3, 2: 1, 21: 0.5},
    "onecycle": {0: 1 / 25, 11: 1, 39: 4e-6},
}


@pytest.mark.parametrize("path", sorted(CONF.glob("scheduler/*.yaml")), ids=lambda path: path.stem)
def test_every_config_has_its_shape_and_resumes_from_a_checkpoint(path: Path) -> None:
    if path.stem == "none":
        assert OmegaConf.load(path) == {}
        return
    optimizer = sgd()
    rates = learning_rates(from_config(path.stem, optimizer), optimizer)
    assert {step: rates[step] for step in SHAPES[path.stem]} == pytest.approx(
        {step: LR * part for step, part in SHAPES[path.stem].items()}, rel=1e-2
    )

    first, second = sgd(), sgd()
    scheduler, resumed = from_config(path.stem, first), from_config(path.stem, second)
    learning_rates(scheduler, first, num_steps=8)
    second.load_state_dict(through_checkpoint(first.state_dict()))
    resumed.load_state_dict(through_checkpoint(scheduler.state_dict()))
    assert learning_rates(resumed, second, num_steps=TOTAL - 8) == rates[8:]


def test_onecycle_works_without_momentum() -> None:
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.ones(2))], lr=LR)
    assert max(learning_rates(from_config("onecycle", optimizer), optimizer)) == pytest.approx(LR, rel=1e-2)


@pytest.mark.parametrize("path", sorted(CONF.glob("optimizer/*.yaml")), ids=lambda path: path.stem)
def test_every_optimizer_config_lowers_a_loss_and_resumes_from_a_checkpoint(path: Path) -> None:
    config = OmegaConf.load(path)
    assert path.read_text().startswith("# @package _global_\n") and set(config) == {"lr", "optimizer"}
    build = instantiate(config.optimizer)

    def closure(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter) -> float:
        optimizer.zero_grad()
        loss = (weight - torch.tensor([0.0, 3.0])).square().sum()
        loss.backward()
        return loss.item()

    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = build([weight])
    assert optimizer.param_groups[0]["lr"] == config.lr
    first_loss = closure(optimizer, weight)
    for _ in range(3):
        optimizer.step(partial(closure, optimizer, weight))
    assert closure(optimizer, weight) < first_loss

    copy = torch.nn.Parameter(weight.detach().clone())
    resumed = build([copy])
    resumed.load_state_dict(through_checkpoint(optimizer.state_dict()))
    optimizer.step(partial(closure, optimizer, weight))
    resumed.step(partial(closure, resumed, copy))
    assert torch.equal(copy, weight)
