"""Metrics of a person's choice: measured, named everywhere, and what a run goes by."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score, roc_auc_score

import lithydra
from conftest import SMALL, RunTrain, rows
from lithydra.checks.config import check
from lithydra.errors import ConfigError
from lithydra.run.metric_names import better, by_split, names_of, ordered
from lithydra.training.loading import load_data

ALL = "metrics=[accuracy,macro_f1,precision,recall,top_k,auroc,cohen_kappa,calibration_error]"


def test_metrics_are_those_of_scikit_learn(run_train: RunTrain) -> None:
    run = run_train(*SMALL, ALL, "metrics.top_k.top_k=3")
    metrics = run.read_status()["metrics"]
    module = lithydra.load(run.path)
    data = load_data(module.record, module.record["config"]["paths"]["data"])
    assert data.test is not None
    images, labels = next(data.test.batches([torch.arange(len(data.test))]))
    with torch.no_grad():
        probabilities = module.probabilities(module(images)).double()
    predicted, truth = probabilities.argmax(1).numpy(), labels.numpy()
    top = probabilities.topk(3).indices
    found = probabilities / probabilities.sum(1, keepdim=True)
    confidence, right = probabilities.max(1).values.numpy(), predicted == truth
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in range(15)]
    expected = {
        "acc": right.mean(),
        "macro_f1": f1_score(truth, predicted, average="macro"),
        "precision": precision_score(truth, predicted, average="macro", zero_division=0),  # pyright: ignore[reportArgumentType]
        "recall": recall_score(truth, predicted, average="macro"),
        "top_k": (top == labels[:, None]).any(1).double().mean().item(),
        "auroc": roc_auc_score(truth, found, average="macro", multi_class="ovr"),
        "cohen_kappa": cohen_kappa_score(truth, predicted),
        "calibration_error": sum(gaps) / len(truth),
    }
    for name, value in expected.items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-4), name
    header = list(rows(run)[0])
    assert header[:5] == ["epoch", "step", "lr", "train/loss", "train/acc"] and set(header[5:]) == {
        f"val/{name}" for name in ("loss", *expected)
    }


@pytest.mark.parametrize("net", ["mlp", "nearest_mean"])
def test_metrics_of_training_are_on_request(run_train: RunTrain, net: str) -> None:
    """At a rate that changes nothing they are those of the random net, so that evaluation can measure them too."""
    settings = (*SMALL, ALL, f"model={net}", "lr=1e-20", "trainer.max_epochs=1", "data.batch_size=17")
    run = run_train(*settings, "train_metrics=true", "trainer.steps_per_execution=4")
    row = rows(run)[0]
    module = lithydra.load(run.path)
    data = load_data(module.record, module.record["config"]["paths"]["data"])
    assert data.train is not None
    images, labels = next(data.train.batches([torch.arange(len(data.train))]))
    with torch.no_grad():
        probabilities = module.probabilities(module(images)).double()
    predicted = probabilities.argmax(1)
    assert float(row["train/macro_f1"]) == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-4)
    shares = probabilities / probabilities.sum(1, keepdim=True)
    assert float(row["train/auroc"]) == pytest.approx(roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-4)
    assert float(row["train/recall"]) != pytest.approx(float(row["val/recall"]), abs=1e-6)
    assert run.read_status()["metrics"]["train/macro_f1"] == float(row["train/macro_f1"])


def test_metrics_of_mixed_images_go_by_the_larger_part(run_train: RunTrain) -> None:
    settings = (*SMALL, "metrics=[accuracy,recall]", "metrics.recall.average=micro", "train_metrics=true")
    for augmentation in ("none", "mixup"):
        done = run_train(*settings, f"augmentation={augmentation}")
        for row in rows(done):
            assert float(row["train/recall"]) == pytest.approx(float(row["train/acc"]), abs=1e-6)


@pytest.mark.parametrize("size", [7, 100])
def test_metrics_do_not_depend_on_the_batch(run_train: RunTrain, size: int) -> None:
    metrics = [
        run_train(*SMALL, ALL, f"data.eval_batch_size={n}").read_status()["metrics"]["test/macro_f1"]
        for n in (size, 360)
    ]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


def test_a_metric_chooses_the_best_epoch_and_stops_early(run_train: RunTrain) -> None:
    chosen = ("metrics=[accuracy,macro_f1]", "monitor.metric=val/macro_f1", "scheduler=plateau", "scheduler.patience=0")
    stopping = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "trainer.max_epochs=30", "lr=0.03")
    run = run_train(*SMALL, *chosen, *stopping)
    curve = [float(row["val/macro_f1"]) for row in rows(run)]
    status = run.read_status()
    best = max(range(len(curve)), key=lambda i: (curve[i], i))
    assert status["best_epoch"] == best + 1 and len(curve) < 30 and "val/macro_f1" in status["stopped"]
    assert float(rows(run)[-1]["lr"]) < 0.03


def test_a_metric_that_nothing_measures_is_refused_with_those_that_there_are(
    run_train: RunTrain, tmp_path: Any
) -> None:
    there = "there are train/loss, train/acc, val/loss, val/acc, val/macro_f1. Did you mean val/macro_f1?"
    with pytest.raises(ConfigError, match=f"^monitor.metric=val/macrof1: not measured; {there.replace('?', '.')}"):
        run_train(*SMALL, "metrics=[accuracy,macro_f1]", "monitor.metric=val/macrof1")
    assert not (tmp_path / "runs").exists()


def test_without_accuracy_there_is_none(run_train: RunTrain) -> None:
    run = run_train(*SMALL, "metrics=macro_f1", "monitor.metric=val/macro_f1")
    assert {"val/loss", "val/macro_f1", "test/macro_f1"} <= run.read_status()["metrics"].keys()
    assert "val/acc" not in run.read_status()["metrics"]


def test_a_metric_of_many_numbers_is_refused(run_train: RunTrain) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.each: gives 10 numbers, and one is needed"):
        run_train(*SMALL, "+metrics.each={_target_: torchmetrics.classification.MulticlassSpecificity, average: none}")


def test_two_classes_have_their_own_metrics(run_train: RunTrain) -> None:
    for loss in ("cross_entropy", "binary_cross_entropy"):
        settings = (
            "data.classes=[3,8]",
            f"loss={loss}",
            "+metrics.f1={_target_: torchmetrics.classification.BinaryF1Score}",
        )
        metrics = run_train(*SMALL, *settings, "data.limit=200").read_status()["metrics"]
        assert metrics["test/f1"] == pytest.approx(metrics["test/acc"], abs=0.1)


def test_the_mode_is_known_of_what_ships() -> None:
    assert [better(name) for name in ("val/acc", "val/loss", "val/auroc", "train/calibration_error", "val/mine")] == [
        *("max", "min", "max", "min"),
        None,
    ]
    names = ["train/loss", "val/mine", "val/loss", "test/acc", "val/acc", "lr"]
    assert ordered(names) == ["val/acc", "val/loss", "val/mine", "test/acc", "train/loss", "lr"]
    assert names_of(names[:-1]) == ["loss", "acc", "mine"]
    assert by_split({"val_acc": 1, "val/loss": 2, "margin": 3}) == {"val": {"loss": 2, "acc": 1}, "": {"margin": 3}}


def test_a_wrong_mode_is_refused_for_these(compose: Any) -> None:
    with pytest.raises(ConfigError, match=r"monitor\.mode=min: val/macro_f1 is better the higher; use max"):
        check(compose("metrics=macro_f1", "monitor.metric=val/macro_f1", "monitor.mode=min"))
    with pytest.raises(ConfigError, match=r"monitor\.metric=test/acc: must be the name of a metric of validation or"):
        check(compose("monitor.metric=test/acc"))
