"""The net of the 94 % recipe: what it is made of, and what it makes of the training images."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lithydra
from conftest import SMALL, RunTrain, assert_equal, checkpoint
from lithydra.errors import ConfigError
from lithydra.models.airbench import Airbench

CIFAR = (3, 32, 32)


def net(**settings: object) -> Airbench:
    torch.manual_seed(0)
    return Airbench(in_shape=CIFAR, num_classes=10, **settings)  # pyright: ignore[reportArgumentType]


def images(count: int = 200) -> Tensor:
    """Neighbors are alike, as in photos."""
    noise = torch.randn(count, 3, 34, 34, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1) * 3


def test_it_has_the_parameters_of_its_source() -> None:
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert sum(p.numel() for p in net().parameters()) == convolutions + 24 + 2 * (64 + 256 + 256) + 256 * 10


@pytest.mark.parametrize("in_shape", [(1, 9, 9), (1, 28, 28), CIFAR])
@pytest.mark.parametrize("num_classes", [1, 7])
def test_every_parameter_gets_a_gradient(in_shape: tuple[int, int, int], num_classes: int) -> None:
    module = Airbench(in_shape=in_shape, num_classes=num_classes, widths=[4, 6, 6])
    logits = module(torch.randn(4, *in_shape))
    assert logits.shape == (4, num_classes)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_neighbors_that_are_alike_become_uncorrelated_and_of_one_size() -> None:
    module, given = net(), images()
    module.fit_to(given)
    found = F.conv2d(given, module.whitening).transpose(0, 1).flatten(1)
    half = found[:12]
    torch.testing.assert_close(found[12:], -half)
    covariance = half @ half.T / half.shape[1]
    torch.testing.assert_close(covariance, torch.eye(12), atol=0.02, rtol=0)
    before = given.unfold(2, 2, 1).unfold(3, 2, 1).permute(1, 4, 5, 0, 2, 3).flatten(3).flatten(0, 2)
    plain = before @ before.T / before.shape[1]
    assert (plain - plain.diag().diag()).abs().max() > 0.5


def test_a_convolution_starts_as_the_identity_of_its_first_channels() -> None:
    convolutions = [layer for layer in net().features if isinstance(layer, nn.Conv2d)]
    x = torch.rand(2, 64, 5, 5)
    torch.testing.assert_close(convolutions[2](x)[:, :64], x)  # 64 to 256
    assert convolutions[2](x)[:, 64:].abs().mean() > 0.01


def test_logits_are_small_at_first_and_norms_only_shift() -> None:
    module = net()
    assert module.head.weight.detach().std().item() == pytest.approx(1.0)
    norms = [layer for layer in module.features if isinstance(layer, nn.BatchNorm2d)]
    assert all([name for name, _ in norm.named_parameters()] == ["bias"] for norm in norms) and len(norms) == 6
    assert {norm.momentum for norm in norms} == {0.4}
    assert module(images(16)).abs().max() < 1


def test_the_net_of_a_run_is_fitted_to_its_training_images(run_train: RunTrain) -> None:
    settings = (*SMALL, "model=airbench", "model.widths=[4,6,6]", "normalization=z_score", "data.image_size=16")
    run = run_train(*settings, "optimizer=muon_sgd", "scheduler=linear", "trainer.max_epochs=1")
    made = checkpoint(run.last)["state_dict"]["net.whitening"]
    assert made.shape == (8, 1, 2, 2)
    torch.testing.assert_close(made[4:], -made[:4])
    other = run_train(*settings, "seed=3", "trainer.max_epochs=1")
    assert not torch.equal(checkpoint(other.last)["state_dict"]["net.whitening"], made)
    assert_equal(dict(lithydra.load(run.path, "last").net.named_buffers())["whitening"], made)


@pytest.mark.parametrize("widths", [(64, 256), (1, 2, 3, 4)])
def test_other_than_three_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"model\.widths=.*: must be three"):
        net(widths=widths)
