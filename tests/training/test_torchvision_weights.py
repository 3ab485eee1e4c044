"""The weights that torchvision has for its nets: taken over, kept with the run, refused where they cannot be had."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import models

from conftest import Compose, RunTrain, weights
from lithydra.errors import ConfigError
from lithydra.models import torchvision_net
from lithydra.models.alexnet import AlexNetImageNet
from lithydra.training import build, transfer
from lithydra.training.loading import load

TORCHVISION = (
    *("model=torchvision", "model.name=shufflenet_v2_x0_5", "data.classes=[0,1,2]", "data.image_size=32"),
    *("data.limit=100", "callbacks=none", "logger=none"),
)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Tensor]]:
    """Weights as torchvision keeps them after a download, and nothing to download from."""

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    state = models.shufflenet_v2_x0_5().state_dict()
    path = tmp_path / "torch/hub/checkpoints" / Path(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path, state


@pytest.mark.parametrize("setting", ["init.from=torchvision", "model.weights=DEFAULT"])
def test_torchvision_weights_are_used_and_the_run_needs_them_no_more(
    setting: str, cached: tuple[Path, dict[str, Tensor]], run_train: RunTrain
) -> None:
    path, state = cached
    run = run_train(*TORCHVISION, setting, "init.freeze=backbone", "trainer.max_steps=2")
    trained = weights(run)
    assert all(torch.equal(value, trained[f"net.net.{key}"]) for key, value in state.items() if key[:3] != "fc.")
    assert trained["net.net.fc.weight"].shape[0] == 3
    path.unlink()
    torch.testing.assert_close(dict(load(run.path).state_dict()), trained, rtol=0, atol=0)


@pytest.mark.parametrize("setting", ["init.from=torchvision", "model.weights=DEFAULT"])
def test_torchvision_weights_that_cannot_be_had_are_refused_in_one_line(
    setting: str, cached: tuple[Path, dict[str, Tensor]], compose: Compose
) -> None:
    cached[0].unlink()
    config = compose(*TORCHVISION, setting)
    key = setting.partition("=")[0].replace(".", r"\.")
    with pytest.raises(ConfigError, match=rf"^{key}=\w+: neither read from .*no network.*{key}=null\.$") as refusal:
        build.classifier(config, build.data(config))
    assert "\n" not in str(refusal.value)


def test_nets_that_torchvision_does_not_have_are_refused(compose: Compose) -> None:
    config = compose("model=cnn", "init.from=torchvision")
    with pytest.raises(ConfigError, match=r"init\.from=torchvision: torchvision has no weights for CNN; use model="):
        build.classifier(config, build.data(config))


def test_alexnet_takes_torchvisions_weights_with_its_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        state = models.alexnet().state_dict()
        same = AlexNetImageNet(in_shape=(3, 224, 224), num_classes=7, kernel_sizes=[11, 5, 3, 3, 3])
        other = AlexNetImageNet(in_shape=(3, 224, 224), num_classes=7)
    monkeypatch.setattr(torchvision_net, "read_weights", lambda name, weights, setting: state)
    source = transfer.from_torchvision(same, "init.from=torchvision")
    transfer.take(same, source, "auto", ["a"] * 7)
    with pytest.raises(ConfigError, match=r"layer features\.8 does not fit: its weight is 256 x 384 x 3 x 3 there"):
        transfer.take(other, source, "auto", ["a"] * 7)
