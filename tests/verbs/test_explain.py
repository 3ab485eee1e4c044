"""Grad-CAM and integrated gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

import lithydra
from conftest import CONF, SMALL, RunTrain
from lithydra.errors import ConfigError
from lithydra.verbs.explain import explain, explanations, last_convolution

pytest.importorskip("captum")


def settings(data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("explain", overrides=[f"paths.data={data_dir}", *overrides])


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_explanations_find_the_pixels_that_decide(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, loss: str
) -> None:
    """Class 1 has a bright square at the lower right, class 0 has none; noise is everywhere."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (300, 16, 16), dtype=np.uint8)
    labels = np.arange(300) % 2
    images[labels == 1, 10:14, 10:14] = 250
    path = tmp_path / "square.npz"
    np.savez(path, x_train=images[:200], y_train=labels[:200], x_test=images[200:], y_test=labels[200:])
    data = ("data=npz", f"data.path={path}", "data.batch_size=20", f"loss={loss}")
    run = run_train(*data, "model=cnn", "model.channels=[8,16]", "trainer.max_epochs=5", "callbacks=none")
    module = lithydra.load(run.path)
    chosen = torch.from_numpy(images[201:221:2])[:, None]
    found = explanations(module, chosen, torch.ones(10, dtype=torch.int64), ("no", "square"), "label")
    assert all(e.guess.predicted == "square" for e in found)
    for e in found:
        assert e.maps.keys() == {"Grad-CAM", "integrated gradients"}
        inside = e.maps["integrated gradients"][9:15, 9:15].sum()
        assert inside > 0.5 * e.maps["integrated gradients"].sum()
        assert all(m.min() >= 0 and m.max() <= 1 for m in e.maps.values())
    config = settings(data_dir, f"run={run.path}", "images=[3,1]")
    with Image.open(explain(config)["picture"]) as picture:
        assert np.asarray(picture).std() > 20


def test_mistakes_can_be_chosen(run_train: RunTrain, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_train(*SMALL)
    explain(settings(data_dir, f"run={run.path}", "only=mistakes", "num_images=3"))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("test images"))
    positions = [int(n) for n in line.removeprefix("test images").split(",")]
    module = lithydra.load(run.path)
    with np.load(data_dir / "digits.npz") as file:
        predicted = module(torch.from_numpy(file["x_test"])[:, None]).argmax(1).numpy()
        assert positions == np.flatnonzero(predicted != file["y_test"])[:3].tolist()
    assert last_convolution(module.net) is None  # an MLP: integrated gradients alone


def test_explain_refuses(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(*SMALL, "model=nearest_mean", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match="learns without a gradient"):
        explain(settings(data_dir, f"run={run.path}"))
    run = run_train(*SMALL, "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"images=\[360\]: the test split has positions 0 to 359"):
        explain(settings(data_dir, f"run={run.path}", "images=[360]"))
