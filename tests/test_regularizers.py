from pathlib import Path

import hydra
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from lithydra.regularizers import l1, l2

CONF = Path(__file__).parents[1] / "conf"


@pytest.fixture
def parameters() -> list[Tensor]:
    torch.manual_seed(0)
    bias = torch.tensor([0.0, -2.0, 1e-4], requires_grad=True)
    return [torch.randn(3, 5, requires_grad=True), bias, torch.zeros(4, requires_grad=True)]


def test_l1_is_the_weighted_sum_of_absolute_values(parameters: list[Tensor]) -> None:
    penalty = l1(parameters, 0.1)
    penalty.backward()
    torch.testing.assert_close(penalty, torch.stack([0.1 * p.abs().sum() for p in parameters]).sum())
    for p in parameters:
        torch.testing.assert_close(p.grad, 0.1 * p.sign())


def test_l2_is_the_weighted_sum_of_squares(parameters: list[Tensor]) -> None:
    penalty = l2(parameters, 0.1)
    penalty.backward()
    torch.testing.assert_close(penalty, torch.stack([0.1 * p.square().sum() for p in parameters]).sum())
    for p in parameters:
        torch.testing.assert_close(p.grad, 0.2 * p)


def test_frozen_parameters_count_but_get_no_gradient() -> None:
    frozen, free = torch.ones(2), torch.ones(3, requires_grad=True)
    penalty = l2([frozen, free], 1.0)
    penalty.backward()
    assert penalty.item() == pytest.approx(5)
    assert frozen.grad is None and free.grad is not None


@pytest.mark.parametrize(
    ("name", "names"), [("none", []), ("l1", ["l1"]), ("l2", ["l2"]), ("elastic_net", ["l1", "l2"])]
)
def test_every_config_is_a_mapping_of_penalties(name: str, names: list[str], parameters: list[Tensor]) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        penalties = hydra.compose(f"regularizer/{name}").get("regularizer", {})
    assert list(penalties) == names
    for penalty in penalties.values():
        assert instantiate(penalty)(parameters) > 0


def test_every_config_is_tested() -> None:
    assert {path.stem for path in (CONF / "regularizer").glob("*.yaml")} == {"none", "l1", "l2", "elastic_net"}
