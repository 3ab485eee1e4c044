"""compare mistakes=true: two runs on the same test images."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

import lithydra
from conftest import QUIET, SMALL, RunTrain
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
