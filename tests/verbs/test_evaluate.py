"""Evaluate and load: a run directory is all that they need."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import lithydra
from conftest import RunTrain, write_npz
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.verbs.evaluate import evaluate
from lithydra.verbs.predict import predict
from trained import SMALL, settings

PROMISE = "12. Evaluate and predict are safe"


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluate_gives_the_same_numbers_after_a_move(run: RunDir, data_dir: Path, tmp_path: Path, split: str) -> None:
    reported = run.read_status()["metrics"]
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(run.path, moved)
    metrics = evaluate(settings("evaluate", data_dir, f"run={moved}", f"split={split}"))["metrics"]
    assert metrics == {name: value for name, value in reported.items() if name.startswith(split)}


def test_evaluate_takes_the_last_checkpoint_when_asked(run: RunDir, data_dir: Path) -> None:
    metrics = evaluate(settings("evaluate", data_dir, f"run={run.path}", "split=val", "checkpoint=last"))["metrics"]
    assert metrics["val/loss"] == float(run.read_metrics()[-1]["val/loss"])


def test_loading_a_run_gives_its_classes_and_probabilities(run: RunDir) -> None:
    module = lithydra.load(run.path)
    assert not module.training
    assert module.record["data"]["class_names"] == list("0123456789")
    probabilities = module.probabilities(module(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)))
    assert probabilities.shape == (2, 10)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(2))


def test_a_checkpoint_file_alone_is_enough(run: RunDir, tmp_path: Path) -> None:
    alone = tmp_path / "model.ckpt"
    shutil.copy(run.best, alone)
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    expected = lithydra.load(run.path)(images)
    shutil.rmtree(run.path)
    assert torch.equal(lithydra.load(alone)(images), expected)


def test_data_of_other_classes_are_refused(run: RunDir, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    write_npz(path, num_classes=3, shape=(8, 8), num_train=60, num_test=30)
    given = settings("evaluate", tmp_path, f"run={run.path}", "data=npz", f"data.path={path}", "data.batch_size=8")
    with pytest.raises(ConfigError, match="trained on data set digits, and these are npz"):
        evaluate(given)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split=tset", "split=tset: one of test, val, train. Did you mean test"),
        ("checkpoint=first", "checkpoint=first: .* has best, last, previous"),
    ],
)
def test_evaluate_refuses(run: RunDir, data_dir: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(settings("evaluate", data_dir, f"run={run.path}", override))


def test_evaluating_a_split_that_the_run_did_not_have_is_refused(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train(*SMALL, "data.val_fraction=0")
    with pytest.raises(ConfigError, match="the run had no validation part"):
        evaluate(settings("evaluate", data_dir, f"run={run.path}", "split=val"))


def test_data_that_have_changed_since_are_told(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, num_classes=3, shape=(8, 8), num_train=60, num_test=30)
    run = run_train("data=npz", f"data.path={path}", "data.batch_size=16", "trainer.max_epochs=1", "callbacks=none")
    evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    assert "not those" not in caplog.text
    write_npz(path, num_classes=3, shape=(8, 8), num_train=60, num_test=33)
    evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    assert "The data are not those that the run was trained on: x_test, y_test differ" in caplog.text


def test_images_that_were_exchanged_since_are_told(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of the same names and sizes, in folders."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), 100 * label + number).save(tmp_path / "images" / name / f"{number}.bmp")
    data = ("data=image_folder", f"data.path={tmp_path / 'images'}", "data.image_size=8", "data.batch_size=4")
    run = run_train(*data, "trainer.max_epochs=1", "callbacks=none", "logger=none")
    evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    assert "not those" not in caplog.text
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (tmp_path / "images" / old).rename(tmp_path / "images" / new)
    evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    assert "The data are not those that the run was trained on: test_contents, train_contents differ" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 4}, r"trained on classes \['0', '1', '2'\], and these are \['0', '1', '2', '3'\]"),
        ({"shape": (9, 9)}, r"trained on image shape \[1, 8, 8\], and these are \[1, 9, 9\]"),
        ({"shape": (8, 8, 3)}, r"trained on image shape \[1, 8, 8\], and these are \[3, 8, 8\]"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    form = {"num_classes": 3, "shape": (8, 8), "num_train": 60, "num_test": 30}
    write_npz(tmp_path / "a.npz", **form)
    write_npz(tmp_path / "b.npz", **{**form, **changes})
    small = ("data.batch_size=16", "trainer.max_epochs=1", "callbacks=none", "logger=none")
    run = run_train("data=npz", f"data.path={tmp_path / 'a.npz'}", *small)
    with pytest.raises(ConfigError, match=message):
        evaluate(settings("evaluate", data_dir, f"run={run.path}", "data=npz", f"data.path={tmp_path / 'b.npz'}"))


def test_a_lost_best_checkpoint_is_not_replaced_by_the_last(run: RunDir, data_dir: Path) -> None:
    run.best.unlink()
    with pytest.raises(ConfigError, match=r"best\.ckpt is lost \(epoch \d\); checkpoint=last takes"):
        evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    evaluate(settings("evaluate", data_dir, f"run={run.path}", "checkpoint=last"))


def test_evaluate_names_the_weights_that_it_took(
    run_train: RunTrain, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_train(*SMALL, "data.val_fraction=0")
    capsys.readouterr()
    evaluate(settings("evaluate", data_dir, f"run={run.path}"))
    assert "Run 1, last.ckpt" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [evaluate, predict])
def test_threads_and_the_precision_of_products_are_those_asked_for(
    run: RunDir, data_dir: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Any], Any]
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda number: asked.update(threads=number))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda name: asked.update(precision=name))
    how = ("accelerator.threads=3", "accelerator.matmul_precision=medium")
    more = [f"input={data_dir / 'digits.npz'}", "contact_sheet=0"] if verb is predict else []
    verb(settings(verb.__name__, data_dir, f"run={run.path}", *how, *more))
    assert asked == {"threads": 3, "precision": "medium"}


def test_another_data_set_is_looked_for_on_this_machine(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    """And it is divided by the run's seed, or by the seed given."""
    before = evaluate(settings("evaluate", data_dir, f"run={run.path}", "split=val"))["metrics"]
    moved = Path(shutil.copytree(data_dir, tmp_path / "moved"))
    data_dir_then = data_dir.rename(data_dir.with_name("gone"))
    limit = ("data=digits", "data.limit=400", "split=val")
    try:
        after = evaluate(settings("evaluate", moved, f"run={run.path}", *limit))["metrics"]
        other = evaluate(settings("evaluate", moved, f"run={run.path}", *limit, "seed=1"))["metrics"]
    finally:
        data_dir_then.rename(data_dir)
    assert after == before and other != before


def test_a_loaded_model_asks_for_no_gradient(run: RunDir) -> None:
    module = lithydra.load(run.path)
    assert not module(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).requires_grad
    assert dir(lithydra) == ["Run", "Sweep", "load", "results", "runs", "sweep", "train"]
