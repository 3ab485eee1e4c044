import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from lithydra.losses import BinaryCrossEntropy, Brier, ProbabilityL1

CONF = Path(__file__).parents[1] / "conf" / "loss"


def load(name: str) -> torch.nn.Module:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"))


def test_cross_entropy_of_the_textbook_scores() -> None:
    loss = load("cross_entropy")(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(2.0404, abs=5e-5)


def test_probability_l1_is_the_mean_distance_to_the_sigmoid() -> None:
    logits = torch.tensor([[0.0], [math.log(3)]])  # probabilities 1/2 and 3/4
    assert ProbabilityL1()(logits, torch.tensor([1, 0])).item() == pytest.approx((0.5 + 0.75) / 2)


def test_binary_cross_entropy_is_the_mean_negative_log_likelihood() -> None:
    logits = torch.tensor([[0.0], [math.log(3)]])
    expected = -(math.log(1 / 2) + math.log(1 / 4)) / 2
    assert BinaryCrossEntropy()(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_binary_cross_entropy_stays_finite_at_large_logits() -> None:
    assert BinaryCrossEntropy()(torch.tensor([[1000.0]]), torch.tensor([0])).item() == pytest.approx(1000)


def test_brier_is_the_squared_distance_of_softmax_and_one_hot() -> None:
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])  # probabilities 1/2, 1/4, 1/4
    assert Brier()(logits, torch.tensor([0])).item() == pytest.approx(0.25 + 2 * 0.0625)
    assert Brier()(torch.tensor([[100.0, 0.0]]), torch.tensor([1])).item() == pytest.approx(2)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_takes_indices_and_equal_probabilities(path: Path) -> None:
    loss = load(path.stem)
    logits = torch.randn(6, 1 if getattr(loss, "single_logit", False) else 2, requires_grad=True)
    targets = torch.tensor([0, 1, 1, 0, 1, 0])
    one_hot: Tensor = torch.nn.functional.one_hot(targets, 2).float()
    value = loss(logits, targets)
    value.backward()
    assert value.shape == ()
    assert logits.grad is not None and logits.grad.abs().min() > 0
    torch.testing.assert_close(loss(logits, one_hot), value)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), ProbabilityL1()], ids=["bce", "l1"])
def test_single_logit_losses_take_float_targets(loss: torch.nn.Module) -> None:
    logits, targets = torch.randn(4, 1), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(loss(logits, targets.float()), loss(logits, targets))
