"""Muon against torch's own for a matrix and against torch's AdamW for the rest, and its state."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from conftest import assert_equal
from lithydra.optimizers import Muon, MuonSGD, NAdam, orthogonalized

Make = Callable[[Iterable[Any]], Optimizer]
SETTINGS: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))


def train(net: nn.Module, optimizer: Optimizer, steps: int = 5, seed: int = 0) -> list[Tensor]:
    """Steps on images of noise; returns the weights after them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        images, labels = torch.rand(8, 3, 6, 6, generator=generator), torch.randint(5, (8,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def after_steps(weight: Tensor, make: Make, gradients: list[Tensor]) -> Tensor:
    parameter = nn.Parameter(weight.clone())
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (30, 30), (1, 50)])
def test_a_matrix_goes_by_torchs_muon(shape: tuple[int, int], nesterov: bool) -> None:
    """Torch computes in bfloat16, of 8 bits."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(3)]
    ours = after_steps(weight, lambda p: Muon(p, nesterov=nesterov, **SETTINGS), gradients)
    like_adamw = {"adjust_lr_fn": "match_rms_adamw", "nesterov": nesterov}
    theirs = after_steps(weight, lambda p: torch.optim.Muon(p, **like_adamw, **SETTINGS), gradients)
    moved = (theirs - weight).norm()
    assert (ours - theirs).norm() < 0.03 * moved, (ours - theirs).norm() / moved


def test_an_update_is_as_large_as_adamws() -> None:
    torch.manual_seed(0)
    for shape in ((64, 16), (16, 64), (16, 8, 3, 3)):
        weight, gradients = torch.zeros(shape), [torch.randn(shape)]
        moved = after_steps(weight, lambda p: Muon(p, lr=0.01), gradients)
        assert moved.square().mean().sqrt() == pytest.approx(0.01 * 0.2, rel=0.2)


def test_a_convolution_is_a_matrix_of_its_filters() -> None:
    torch.manual_seed(0)
    weight, gradients = torch.randn(8, 3, 3, 3), [torch.randn(8, 3, 3, 3) for _ in range(3)]
    filters = after_steps(weight, lambda p: Muon(p, **SETTINGS), gradients)
    matrix = after_steps(weight.flatten(1), lambda p: Muon(p, **SETTINGS), [g.flatten(1) for g in gradients])
    assert torch.equal(filters.flatten(1), matrix)


def test_memory_format_changes_nothing() -> None:
    torch.manual_seed(0)
    weight, gradients = torch.randn(8, 3, 3, 3), [torch.randn(8, 3, 3, 3) for _ in range(3)]
    last: dict[str, Any] = {"memory_format": torch.channels_last}
    moved = after_steps(weight, lambda p: Muon(p, **SETTINGS), gradients)
    moved_last = after_steps(weight.to(**last), lambda p: Muon(p, **SETTINGS), [g.to(**last) for g in gradients])
    assert torch.equal(moved, moved_last) and moved_last.is_contiguous(**last)


@pytest.mark.parametrize("fused", [None, True])
def test_biases_and_norms_go_by_torchs_adamw_exactly(fused: bool | None) -> None:
    net, twin = small_net(), small_net()
    vectors, frozen = ([p for p in net.parameters() if p.ndim == 1], [p for p in net.parameters() if p.ndim > 1])
    for p in frozen:
        p.requires_grad_(False)
    expected = train(net, AdamW(vectors, fused=fused, **SETTINGS))
    for p in twin.parameters():
        p.requires_grad_(p.ndim == 1)
    assert_equal(train(twin, Muon(twin.parameters(), fused=fused, **SETTINGS)), expected)


def test_a_group_without_matrices_goes_by_adamw_exactly() -> None:
    net, twin = small_net(), small_net()
    expected = train(net, AdamW(net.parameters(), **SETTINGS))
    assert_equal(train(twin, Muon([{"params": twin.parameters(), "matrices": False}], **SETTINGS)), expected)
    other = small_net()
    assert not torch.equal(train(other, Muon(other.parameters(), **SETTINGS))[0], expected[0])


def test_groups_have_their_own_lr_and_weight_decay() -> None:
    net = small_net()
    start = [p.detach().clone() for p in net.parameters()]
    still, moving = list(net[0].parameters()), list(net[4].parameters())
    groups = [{"params": still, "lr": 0.0}, {"params": moving, "weight_decay": 0.5}]
    optimizer = Muon(groups, **SETTINGS)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    ends = [p.detach() for p in net.parameters()]
    assert_equal(ends[:2], start[:2])
    torch.testing.assert_close(ends[4:], [p * (1 - 0.01 * 0.5) for p in start[4:]])


def test_muon_sgd_is_the_optimizer_of_the_94_percent_recipe() -> None:
    """airbench94_muon's update, written out: the weight keeps the norm √out, and lr is how far it turns."""
    torch.manual_seed(0)
    weight, gradients = torch.randn(16, 8, 3, 3), [torch.randn(16, 8, 3, 3) for _ in range(4)]
    ours = after_steps(weight, lambda p: MuonSGD(p, lr=0.24), gradients)
    theirs, buffer = weight.clone(), torch.zeros_like(weight)
    for gradient in gradients:
        buffer = 0.6 * buffer + gradient
        theirs *= len(theirs) ** 0.5 / theirs.norm()
        theirs -= 0.24 * orthogonalized((gradient + 0.6 * buffer).flatten(1), 3).view_as(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [None, True])
def test_muon_sgd_trains_biases_and_the_head_by_torchs_sgd_exactly(fused: bool | None) -> None:
    one, other = nn.Linear(6, 4), nn.Linear(6, 4)
    other.load_state_dict(one.state_dict())
    settings = {"lr": 0.05, "weight_decay": 0.01, "fused": fused}
    ours = MuonSGD(one.parameters(), matrices=False, sgd_momentum=0.85, **settings)
    theirs = torch.optim.SGD(other.parameters(), momentum=0.85, nesterov=True, **settings)
    for seed in range(4):
        inputs = torch.rand(5, 6, generator=torch.Generator().manual_seed(seed))
        for net, optimizer in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            net(inputs).square().sum().backward()
            optimizer.step()
    assert_equal(dict(one.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("make", [Muon, MuonSGD, NAdam])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_goes_on_exactly_from_its_saved_state(make: Any, dtype: torch.dtype) -> None:
    net = small_net().to(dtype)
    torch.set_default_dtype(dtype if dtype == torch.float64 else torch.float32)  # as Lightning does
    try:
        optimizer = make(net.parameters(), **SETTINGS)
        inputs = torch.rand(8, 3, 6, 6, dtype=dtype)

        def step(net: nn.Module, optimizer: Optimizer) -> None:
            optimizer.zero_grad()
            net(inputs).square().mean().backward()
            optimizer.step()

        step(net, optimizer)
        twin = copy.deepcopy(net)
        resumed = make(twin.parameters(), **SETTINGS)
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert_equal(resumed.state_dict(), optimizer.state_dict())
        for one, other in ((net, optimizer), (twin, resumed)):
            step(one, other)
            step(one, other)
        assert_equal(twin.state_dict(), net.state_dict())
        assert_equal(resumed.state_dict(), optimizer.state_dict())
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    weight, gradients = torch.randn(20, 30), [torch.randn(20, 30)]
    plain = after_steps(weight, lambda p: Muon(p, **SETTINGS), gradients)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after_steps(weight, lambda p: Muon(p, **SETTINGS), gradients), plain)


def test_weights_without_a_gradient_stay() -> None:
    net = small_net()
    start = copy.deepcopy(net.state_dict())
    optimizer = Muon(net.parameters(), **SETTINGS)
    assert optimizer.step() is None
    assert_equal(net.state_dict(), start)
    assert not optimizer.state


def test_a_closure_is_evaluated_with_gradients() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    optimizer = Muon([weight], **SETTINGS)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    before = weight.square().sum().item()
    assert optimizer.step(closure) == before
    assert weight.square().sum().item() < before


@pytest.mark.parametrize("shape", [(50, 50), (100, 30), (30, 100)])
def test_singular_values_come_near_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = orthogonalized(100 * torch.randn(shape), steps=5)
    values = torch.linalg.svdvals(matrix)
    assert matrix.shape == shape and values.max() < 1.25 and values.median() > 0.65


def test_nothing_is_made_of_a_zero_gradient() -> None:
    assert torch.equal(orthogonalized(torch.zeros(3, 4), steps=5), torch.zeros(3, 4))
