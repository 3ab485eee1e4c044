from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from conftest import SMALL, RunTrain
from lithydra.errors import ConfigError
from lithydra.models import layers
from lithydra.models.alexnet import AlexNet, AlexNetImageNet
from lithydra.models.cnn import CNN
from lithydra.models.mlp import MLP
from lithydra.models.nearest_mean import NearestMean
from lithydra.models.resnet9 import ResNet9
from lithydra.models.torchvision_net import torchvision_net

Shape = tuple[int, int, int]
DIGITS, MNIST, CIFAR, IMAGENET = (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224)
SMALL_ALEXNET = {"channels": [4, 8, 8, 8, 8], "hidden": [16, 16]}


def num_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def shapes(net: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(key, value.shape) for key, value in net.state_dict().items()]


@pytest.mark.parametrize("in_shape", [DIGITS, MNIST, CIFAR])
@pytest.mark.parametrize("num_classes", [1, 7])
@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (MLP, {"hidden": []}),
        (MLP, {"hidden": [5, 4], "batch_norm": True, "dropout": 0.25}),
        (CNN, {"channels": [4, 6, 8], "batch_norm": True, "dropout": 0.25}),
        (AlexNet, SMALL_ALEXNET),
        (ResNet9, {"width": 4}),
        (torchvision_net, {"name": "shufflenet_v2_x0_5"}),
    ],
)
def test_logits_have_one_column_a_class_and_every_parameter_a_gradient(
    build: Callable[..., nn.Module], settings: dict[str, Any], num_classes: int, in_shape: Shape
) -> None:
    torch.manual_seed(0)
    net = build(in_shape=in_shape, num_classes=num_classes, **settings)
    logits = net(torch.randn(4, *in_shape))
    assert logits.shape == (4, num_classes)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("name", sorted(layers.ACTIVATIONS))
@pytest.mark.parametrize(("build", "settings"), [(MLP, {"hidden": [6, 5]}), (CNN, {}), (AlexNet, SMALL_ALEXNET)])
def test_networks_take_every_activation(build: Callable[..., nn.Module], settings: dict[str, Any], name: str) -> None:
    net = build(in_shape=DIGITS, num_classes=3, activation=name, **settings)
    assert any(isinstance(module, layers.ACTIVATIONS[name]) for module in net.modules())
    assert net(torch.randn(2, *DIGITS)).shape == (2, 3)


def test_convolutional_networks_ask_for_channels_last() -> None:
    assert all(net.channels_last is True for net in (CNN, AlexNet, AlexNetImageNet, ResNet9))
    assert torchvision_net(in_shape=CIFAR, num_classes=2, name="squeezenet1_1").channels_last is True
    assert not hasattr(MLP, "channels_last") and not hasattr(NearestMean, "channels_last")


def test_mlp_has_the_layers_of_784_100_batch_norm_relu_10() -> None:
    net = MLP(in_shape=MNIST, num_classes=10, hidden=[100], batch_norm=True)
    leaves = [type(module) for module in net.modules() if not list(module.children())]
    assert leaves == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert num_parameters(net) == 784 * 100 + 100 + 200 + 1000 + 10


def test_mlp_784_1000_10_and_linear_classifier_have_their_parameters() -> None:
    assert num_parameters(MLP(in_shape=MNIST, num_classes=10, hidden=[1000])) == 784 * 1000 + 1000 + 1000 * 10 + 10
    assert num_parameters(MLP(in_shape=MNIST, num_classes=1, hidden=[])) == 784 + 1


@pytest.mark.parametrize("build", [MLP, CNN, ResNet9])
def test_batch_norm_takes_eps_and_momentum(build: Callable[..., nn.Module]) -> None:
    switch = {} if build is ResNet9 else {"batch_norm": True}
    net = build(in_shape=DIGITS, num_classes=2, batch_norm_eps=1e-3, batch_norm_momentum=0.9, **switch)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.9)}


def test_cnn_on_cifar_ends_with_a_linear_layer_of_2048_inputs() -> None:
    net = CNN(in_shape=CIFAR, num_classes=10)
    assert net.head.weight.shape == (10, 2048)
    convolutions = (3 * 32 + 32 * 64 + 64 * 128) * 3 * 3 + 32 + 64 + 128
    assert num_parameters(net) == convolutions + 2048 * 10 + 10


def test_alexnet_for_small_images_has_its_parameters() -> None:
    with torch.device("meta"):
        net = AlexNet(in_shape=CIFAR, num_classes=10)
    channels = [3, 64, 192, 384, 256, 256]
    convolutions = sum(9 * a * b + b for a, b in pairwise(channels))
    linear = (256 * 4 * 4 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 10
    assert num_parameters(net) == convolutions + linear


def test_alexnet_imagenet_has_the_kernels_of_its_source() -> None:
    with torch.device("meta"):
        net = AlexNetImageNet(in_shape=IMAGENET, num_classes=1000)
        features = net.features(torch.empty(2, *IMAGENET))
        logits = net(torch.empty(2, *IMAGENET))
    assert features.shape == (2, 256, 6, 6)
    assert logits.shape == (2, 1000)
    convolutions = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 5), (256, 256, 5)]
    linear = [(9216, 4096), (4096, 4096), (4096, 1000)]
    expected = sum((a * k * k + 1) * b for a, b, k in convolutions) + sum((a + 1) * b for a, b in linear)
    assert num_parameters(net) == expected == 63_722_280


def test_alexnet_imagenet_with_3x3_kernels_is_the_alexnet_of_torchvision() -> None:
    with torch.device("meta"):
        net = AlexNetImageNet(in_shape=IMAGENET, num_classes=1000, kernel_sizes=[11, 5, 3, 3, 3])
        reference = models.alexnet()
    assert shapes(net) == shapes(reference)
    assert num_parameters(net) == num_parameters(reference) == 61_100_840


def test_alexnet_imagenet_takes_its_smallest_image() -> None:
    with torch.device("meta"):
        assert AlexNetImageNet(in_shape=(1, 63, 63), num_classes=3)(torch.empty(2, 1, 63, 63)).shape == (2, 3)


def test_resnet9_has_the_parameters_of_its_source() -> None:
    with torch.device("meta"):
        assert num_parameters(ResNet9(in_shape=CIFAR, num_classes=10)) == 6_573_120


def test_maxout_is_the_largest_of_its_pieces() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(3, 2 * 4)
    x = torch.randn(5, 3)
    pieces = x @ dense.weight.T + dense.bias
    assert torch.allclose(layers.Maxout()(dense(x)), torch.maximum(pieces[:, :4], pieces[:, 4:]))
    images = torch.randn(5, 2 * 4, 6, 6)
    assert torch.equal(layers.Maxout()(images), torch.maximum(images[:, :4], images[:, 4:]))


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_nearest_mean_gives_negative_distances_to_the_class_means(distance: Literal["l1", "l2"]) -> None:
    generator = np.random.default_rng(0)
    images = generator.random((12, 1, 3, 3), dtype=np.float32)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1])
    net = NearestMean(in_shape=(1, 3, 3), num_classes=3, distance=distance)
    for part in (slice(0, 5), slice(5, 12)):
        net.fit_batch(torch.from_numpy(images[part]), torch.from_numpy(labels[part]))
    means = np.stack([images[labels == label].mean(0) for label in range(3)])
    differences = images[:, None] - means
    expected = np.abs(differences) if distance == "l1" else differences**2
    expected = expected.mean((2, 3, 4)) if distance == "l1" else np.sqrt(expected.mean((2, 3, 4)))
    np.testing.assert_allclose(net(torch.from_numpy(images)).numpy(), -expected, rtol=1e-5)
    assert not list(net.parameters()) and net.counts.tolist() == [5, 4, 3]


def test_nearest_mean_never_predicts_a_class_without_images() -> None:
    net = NearestMean(in_shape=(1, 1, 2), num_classes=3)
    net.fit_batch(torch.full((2, 1, 1, 2), 5.0), torch.tensor([1, 2]))
    logits = net(torch.zeros(4, 1, 1, 2))
    assert logits.isfinite().all()
    assert (logits[:, 0] < logits[:, 1:].min(1).values).all()


def test_nearest_mean_with_a_single_logit_is_positive_nearer_to_class_1() -> None:
    net = NearestMean(in_shape=(1, 1, 2), num_classes=1)
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(-1, 1, 1, 2)
    net.fit_batch(images, torch.tensor([0, 1]))
    assert net(images).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121", "googlenet"])
def test_torchvision_networks_get_a_head_for_the_classes_and_take_grey_images(name: str) -> None:
    net = torchvision_net(in_shape=(1, 32, 32), num_classes=5, name=name)
    assert net.training
    assert net(torch.randn(2, 1, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("build", "in_shape", "settings", "message"),
    [
        (
            MLP,
            DIGITS,
            {"activation": "rellu"},
            r"model\.activation=rellu: choose one of sigmoid, .*Did you mean relu\?",
        ),
        (MLP, DIGITS, {"activation": ["relu", "elu"]}, r"model\.activation=\['relu', 'elu'\]: choose one of"),
        (CNN, MNIST, {"channels": [4] * 5}, r"model\.channels=\[4, .*smallest image is 32x32; try data\.image_size=32"),
        (AlexNet, (1, 7, 9), {}, r"model=alexnet: images of 7x9 .*smallest image is 8x8; try data\.image_size=8"),
        (AlexNetImageNet, (3, 62, 62), {}, r"the smallest image is 63x63; try data\.image_size=64"),
        (ResNet9, (1, 6, 6), {}, r"model=resnet9: .*smallest image is 8x8; try data\.image_size=8"),
        (torchvision_net, CIFAR, {"name": "resnet19"}, r"model\.name=resnet19: .*Did you mean resnet18\?$"),
        (torchvision_net, (4, 32, 32), {"name": "resnet18"}, r"must have 1 or 3 channels, the data's have 4"),
        (torchvision_net, CIFAR, {"name": "resnet18", "weights": "DEFALT"}, r"model\.weights=DEFALT: .*mean DEFAULT\?"),
        (torchvision_net, DIGITS, {"name": "squeezenet1_1"}, r"images of 8x8; .* is 32: try data\.image_size=32"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    build: Callable[..., nn.Module], in_shape: Shape, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        build(in_shape=in_shape, num_classes=3, **settings)
    assert "\n" not in str(refusal.value)


def test_a_run_of_statistics_says_which_settings_it_does_not_use(
    run_train: RunTrain, caplog: pytest.LogCaptureFixture
) -> None:
    run_train(*SMALL, "model=nearest_mean", "augmentation=mixup", "scheduler=step", "trainer.gradient_clip_val=1")
    ignored = "lr, optimizer, trainer.max_epochs, scheduler, augmentation, trainer.gradient_clip_val"
    assert [record.getMessage() for record in caplog.records if "Not used" in record.getMessage()] == [
        f"This model learns from the data's statistics, in one pass. Not used: {ignored}."
    ]
