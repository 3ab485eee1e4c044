"""compare mistakes=true: two runs on the same test images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

import lithydra
from conftest import QUIET, SMALL, RunTrain, write_npz
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.training.loading import load_data
from lithydra.verbs.mistakes import compare_mistakes


def right(run: RunDir, data_dir: Path) -> torch.Tensor:
    """Which test images the run's classifier gets right."""
    module = lithydra.load(run.path)
    test = load_data(module.record, str(data_dir)).test
    images, labels = next(test.batches([torch.arange(len(test))]))
    return module(images).argmax(1) == labels


def test_the_four_numbers_are_those_of_the_predictions(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, poor = run_train("trainer.max_epochs=3", *QUIET), run_train(*SMALL, "trainer.max_epochs=1")
    path = tmp_path / "pictures" / "mistakes.png"
    found = compare_mistakes([good, poor], ["good", "poor"], str(data_dir), [], path)["mistakes"]
    a, b = right(good, data_dir), right(poor, data_dir)
    assert found["only_first"] == (a & ~b).nonzero().squeeze(1).tolist()
    assert found["only_second"] == (b & ~a).nonzero().squeeze(1).tolist()
    assert (found["both_right"], found["both_wrong"]) == (int((a & b).sum()), int((~a & ~b).sum()))
    divided = len(found["only_first"]) + len(found["only_second"])
    assert found["p"] == pytest.approx(binomtest(len(found["only_first"]), divided).pvalue) and found["p"] < 0.05
    assert "more than chance" in capsys.readouterr().out and json.dumps(found, default=str)
    with Image.open(path) as picture:
        assert picture.size[0] > 1000


def test_a_run_does_not_differ_from_itself(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_train(*SMALL)
    found = compare_mistakes([run, run], ["one", "same"], str(data_dir), [], tmp_path / "x.png")["mistakes"]
    assert found["p"] == 1 and found["picture"] is None and found["both_right"] + found["both_wrong"] == 360
    assert "no more than chance may give" in capsys.readouterr().out


def test_runs_that_cannot_be_compared_are_refused(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    run = run_train(*SMALL)
    fewer = run_train(*SMALL, "data.classes=[0,1,2]")
    with pytest.raises(ConfigError, match="compares two runs, and there are 1"):
        compare_mistakes([run], ["one"], str(data_dir), [], tmp_path / "x.png")
    with pytest.raises(ConfigError, match="not tested on the same images"):
        compare_mistakes([run, fewer], ["one", "other"], str(data_dir), [], tmp_path / "x.png")


@pytest.mark.parametrize("size", [8, 16])
def test_other_images_of_the_same_labels_are_not_the_same(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, size: int
) -> None:
    """Clean and corrupted images, in one size and in two; the clean ones in two sizes are the same."""
    write_npz(tmp_path / "clean.npz", num_classes=3, shape=(8, 8), num_train=60, num_test=30)
    with np.load(tmp_path / "clean.npz") as arrays:
        np.savez(tmp_path / "noisy.npz", **{**arrays, "x_test": 255 - arrays["x_test"]})
    small = ("data=npz", "data.batch_size=16", "trainer.max_epochs=1", *QUIET)
    clean = run_train(*small, f"data.path={tmp_path / 'clean.npz'}")
    other, same = (
        run_train(*small, f"data.path={tmp_path / name}.npz", f"data.image_size={size}") for name in ("noisy", "clean")
    )
    with pytest.raises(ConfigError, match="not tested on the same images"):
        compare_mistakes([clean, other], ["clean", "noisy"], str(data_dir), [], tmp_path / "x.png")
    assert compare_mistakes([clean, same], ["one", "other"], str(data_dir), [], tmp_path / "x.png")
