import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from lithydra.errors import ConfigError
from lithydra.losses import BinaryCrossEntropy, Brier, CrossEntropy, ProbabilityL1, balanced

CONF = Path(__file__).parents[1] / "conf" / "loss"


def load(name: str, **settings: Any) -> torch.nn.Module:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    counts = {"class_counts": [1, 1, 1]} if name == "cross_entropy" else {}
    return instantiate(config, **counts, **settings)


def test_cross_entropy_of_the_textbook_scores() -> None:
    loss = load("cross_entropy")(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(2.0404, abs=5e-5)


LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2] * 3)
MIXED = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
TARGETS = pytest.mark.parametrize("targets", [LABELS, MIXED], ids=["labels", "probabilities"])
SMOOTHING = pytest.mark.parametrize("smoothing", [0.0, 0.1])


@TARGETS
@SMOOTHING
def test_cross_entropy_without_weights_is_that_of_torch_bit_for_bit(targets: Tensor, smoothing: float) -> None:
    loss = load("cross_entropy", label_smoothing=smoothing)
    assert torch.equal(loss(LOGITS, targets), torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(LOGITS, targets))
    assert loss.state_dict() == {}


def test_class_weights_multiply_the_loss_of_each_image() -> None:
    weights = [0.5, 1.0, 4.0]
    each = torch.nn.functional.cross_entropy(LOGITS, LABELS, reduction="none")
    expected = (torch.tensor(weights)[LABELS] * each).sum() / 12
    torch.testing.assert_close(load("cross_entropy", class_weights=weights)(LOGITS, LABELS), expected)


@SMOOTHING
def test_class_weights_multiply_each_share_of_mixed_labels(smoothing: float) -> None:
    weights = [0.5, 1.0, 4.0]
    loss = load("cross_entropy", class_weights=weights, label_smoothing=smoothing)
    shares = (1 - smoothing) * MIXED + smoothing / 3
    expected = -(torch.tensor(weights) * shares * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss(LOGITS, MIXED), expected)
    one_hot = torch.nn.functional.one_hot(LABELS, 3).float()
    torch.testing.assert_close(loss(LOGITS, LABELS), loss(LOGITS, one_hot))


@TARGETS
@SMOOTHING
def test_two_halves_of_a_batch_average_to_the_whole(targets: Tensor, smoothing: float) -> None:
    loss = load("cross_entropy", class_weights=[0.5, 1.0, 4.0], label_smoothing=smoothing)
    halves = [loss(LOGITS[part], targets[part]) for part in (slice(5, 11), [0, 1, 2, 3, 4, 11])]
    torch.testing.assert_close(torch.stack(halves).mean(), loss(LOGITS, targets))


def test_weights_of_1_are_none() -> None:
    weighted = load("cross_entropy", class_weights=[1, 1, 1])
    torch.testing.assert_close(weighted(LOGITS, LABELS), load("cross_entropy")(LOGITS, LABELS))


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], (1, 6, 3))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced([1, 6, 3]) == pytest.approx(expected)


def test_a_class_without_images_has_a_finite_weight() -> None:
    assert balanced([4, 0]) == [0.5, 2.0]


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]], ids=str)
def test_another_number_of_weights_is_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError) as error:
        CrossEntropy([1, 6, 3], class_weights=weights)
    assert str(error.value) == f"loss.class_weights={weights}: must be one number a class, 3 of them"


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
