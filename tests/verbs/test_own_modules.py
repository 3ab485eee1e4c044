"""What is done with the run of a person's own LightningModule."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from conftest import CONF, RunTrain
from lithydra.errors import ConfigError
from lithydra.run.directory import RunDir
from lithydra.verbs.evaluate import evaluate
from lithydra.verbs.export import export
from lithydra.verbs.predict import predict
from stock import DATA, HERE, OWN, SHORT

FOR_THEM = f"trust=[{HERE}]"


@pytest.fixture
def run(run_train: RunTrain) -> RunDir:
    return run_train(*SHORT, *OWN, "normalization=z_score", "augmentation=affine")


def settings(verb: str, data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        device = ["accelerator=cpu"] if verb != "export" else []
        return compose(verb, overrides=[*device, f"paths.data={data_dir}", *overrides])


def given(verb: str, data_dir: Path, run: RunDir, *overrides: str) -> DictConfig:
    return settings(verb, data_dir, f"run={run.path}", FOR_THEM, *overrides)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluate_gives_the_runs_numbers(run: RunDir, data_dir: Path, split: str) -> None:
    metrics = evaluate(given("evaluate", data_dir, run, f"split={split}"))["metrics"]
    reported = run.read_status()["metrics"]
    assert metrics == {name: value for name, value in reported.items() if name.startswith(split)} and metrics


def test_other_data_are_normalized_as_those_trained_with(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    """Their test images are the run's; their training images, of another brightness, say nothing."""
    with np.load(data_dir / "digits.npz") as arrays:
        digits = {key: arrays[key][:400] for key in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(tmp_path / "a.npz", **digits)
    np.savez(tmp_path / "b.npz", **{**digits, "x_train": digits["x_train"] // 4})
    data = ("data=npz", f"data.path={tmp_path / 'a.npz'}", "data.batch_size=16")
    run = run_train(*data, "trainer.max_epochs=1", *SHORT[2:], *OWN, "normalization=z_score")
    found = evaluate(given("evaluate", data_dir, run, "data=npz", f"data.path={tmp_path / 'b.npz'}"))
    assert found["metrics"]["test_acc"] == run.read_status()["metrics"]["test_acc"]


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_test_time_views_are_refused(run: RunDir, data_dir: Path, tmp_path: Path, verb: str) -> None:
    more = [f"input={tmp_path}"] if verb == "predict" else []
    with pytest.raises(ConfigError, match=r"^tta=flip: averages logits of lithydra's nets"):
        {"evaluate": evaluate, "predict": predict, "export": export}[verb](
            given(verb, data_dir, run, "tta=flip", *more)
        )


def test_a_split_without_a_step_is_refused(run_train: RunTrain, run: RunDir, data_dir: Path) -> None:
    gan = run_train(*SHORT, "module=gan")
    with pytest.raises(ConfigError, match="split=test: GAN has no test_step"):
        evaluate(settings("evaluate", data_dir, f"run={gan.path}"))
    with pytest.raises(ConfigError, match="split=train: a module of one's own is evaluated on test or val"):
        evaluate(given("evaluate", data_dir, run, "split=train"))


def test_its_own_data_are_evaluated_again(run_train: RunTrain, data_dir: Path) -> None:
    run = run_train("trainer.max_epochs=1", "callbacks=none", "logger=none", DATA, *OWN)
    metrics = evaluate(given("evaluate", data_dir, run))["metrics"]
    assert metrics["test_acc"] == run.read_status()["metrics"]["test_acc"]


def test_a_module_that_classifies_predicts_and_is_exported(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    with np.load(data_dir / "digits.npz") as arrays:
        images, labels = arrays["x_test"][:60], arrays["y_test"][:60]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:03}.png")
    settled = given("predict", data_dir, run, f"input='{tmp_path}/*.png'", f"output={tmp_path / 'p.csv'}")
    output = predict(settled)["output"]
    found = [int(row["class_1"]) for row in csv.DictReader(output.read_text().splitlines())]
    accuracy = float((np.array(found) == labels).mean())
    assert accuracy == pytest.approx(run.read_status()["metrics"]["test_acc"], abs=0.2) and accuracy > 0.4
    assert export(given("export", data_dir, run))["output"].exists()


def test_one_that_gives_images_back_classifies_none(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    run = run_train(*SHORT, "module=autoencoder", "module.hidden=8")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(
        ConfigError, match=r"module: its forward gives \(2, 1, 8, 8\) for 2 images, and no logits of 10"
    ):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'x.png'}"))


def test_the_config_of_such_a_run_is_plain(run: RunDir) -> None:
    assert OmegaConf.load(run.config).module._target_ == f"{HERE}.LitClassifier"
