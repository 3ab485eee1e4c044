"""Pictures, run.html, TensorBoard and histograms: what a run leaves for the eye."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import lithydra
from conftest import QUIET, SMALL, RunTrain, assert_equal, rows, weights, write_npz
from lithydra.callbacks.histograms import dead_share, histogram, saturated_share
from lithydra.callbacks.look_inside import TestResults, first_layer, first_of_each_class
from lithydra.data.splits import TensorSplit
from lithydra.files import write_rows
from lithydra.run import page, plots
from lithydra.run.directory import RunDir
from lithydra.run.histograms import PARTS, Histogram, add_histograms, histogram_arrays

LAST = ("trainer.max_epochs=1", "callbacks=plots", "logger=none")
ONE_EPOCH = "trainer.max_epochs=1"
SHORT = ("data.limit=200", "trainer.max_epochs=2")
PLOTS = {"curves", "confusion", "reliability", "mistakes", "samples", "filters"}


def test_run_leaves_pictures_a_page_and_tensorboard(run_train: RunTrain) -> None:
    run = run_train(*SHORT, "model=cnn", "model.channels=[4]", "augmentation=affine", "trainer.log_every_n_steps=5")
    assert {path.stem for path in run.plots.glob("*.png")} == PLOTS
    for path in run.plots.iterdir():
        with Image.open(path) as image:
            assert np.asarray(image).std() > 5, f"{path} is blank"
    page = run.page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "the page needs other files"
    assert page.count("data:image/png;base64,") == len(PLOTS)
    assert f"{100 * run.read_status()['metrics']['test/acc']:.2f} %" in page
    assert f"python scripts/evaluate.py run={run.path}" in page

    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {f"view/{name}" for name in PLOTS} and tags["graph"]
    assert {"train/lr", "train/gradient_norm", "train/images_per_second", "train/loss_step"} <= set(tags["scalars"])
    assert all(event.value > 0 for event in events.Scalars("train/gradient_norm"))
    assert len(events.Scalars("train/images_per_second")) == 2
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^train/loss$" in layout and b"^val/loss$" in layout
    config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert run.config.read_text() in config


def test_the_page_says_the_training_time_of_all_parts(run_train: RunTrain) -> None:
    """Not how long the last part took: of a resumed run that is little of it."""
    run = run_train(*SMALL)
    epochs = [{**row, "seconds": "1900"} for row in run.read_metrics()]
    write_rows(run.metrics, tuple(epochs[0]), epochs)
    assert "trained 1 h 3 min<" in page.write(run).read_text()


def test_callbacks_none_leaves_no_pictures(run_train: RunTrain) -> None:
    run = run_train(*SMALL)
    assert not run.plots.exists() and not run.page.exists()


def test_pictures_and_histograms_change_nothing_in_training(run_train: RunTrain) -> None:
    random = ("model.dropout=0.3", "model.batch_norm=true", "augmentation=affine")
    plain, watched = run_train(*SHORT, *random, *QUIET), run_train(*SHORT, *random, "callbacks=histograms")
    assert rows(plain) == rows(watched)
    assert_equal(weights(plain), weights(watched))


def test_a_picture_that_fails_costs_the_run_nothing(
    run_train: RunTrain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no paint")

    monkeypatch.setattr(plots, "confusion", fail)
    run = run_train(*SHORT, "callbacks=plots", "logger=none")
    assert run.read_status()["state"] == "finished"
    assert "Looking inside failed: RuntimeError: no paint" in caplog.text
    caplog.clear()


def test_confusion_and_mistakes_are_those_of_the_test_images(
    run_train: RunTrain, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list] = {"counts": [], "mistakes": []}
    confusion, guesses = plots.confusion, plots.guesses
    monkeypatch.setattr(plots, "confusion", lambda c, *a: (drawn["counts"].append(c), confusion(c, *a))[1])
    monkeypatch.setattr(plots, "guesses", lambda g, *a: (drawn["mistakes"].append(g), guesses(g, *a))[1])
    run = run_train(*SHORT, "callbacks=plots", "logger=none", "data.eval_batch_size=100")
    with np.load(data_dir / "digits.npz") as file:
        images, labels = file["x_test"], file["y_test"]
    module = lithydra.load(run.path)
    with torch.no_grad():
        probabilities = module.probabilities(module(torch.from_numpy(images)[:, None])).numpy()
    predicted = probabilities.argmax(1)
    expected = np.zeros((10, 10), int)
    np.add.at(expected, (labels, predicted), 1)
    assert (drawn["counts"][0] == expected).all()
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(1))][: len(drawn["mistakes"][0])]
    assert len(surest) == 24
    for guess, i in zip(drawn["mistakes"][0], surest, strict=True):
        assert (guess.predicted, guess.truth) == (str(predicted[i]), str(labels[i]))
        assert (guess.image[..., 0] == images[i]).all()


def test_of_all_batches_the_surest_mistakes_are_kept() -> None:
    results = TestResults(torch.zeros(2, 2, dtype=torch.int64))
    sure = torch.linspace(0.5, 1, 101)[1:]
    for part in torch.stack([sure, 1 - sure], 1)[torch.randperm(100)].split(7):  # class 0 is predicted, class 1 is true
        results.add(torch.zeros(len(part), 1, 2, 2, dtype=torch.uint8), part, torch.ones(len(part), dtype=torch.int64))
    assert [sure for _, _, sure, _ in results.mistakes] == sorted(sure.tolist(), reverse=True)[:24]
    assert results.counts.tolist() == [[0, 0], [100, 0]]


def test_sample_grid_has_each_class_in_its_row() -> None:
    labels = torch.tensor([0, 2, 1, 0, 0, 1])
    split = TensorSplit(labels, torch.tensor([1, 2, 3, 4, 5]), torch.zeros(6, 1, 2, 2))
    positions = first_of_each_class(split, 3, 2)
    assert labels[split.indices[positions]].tolist() == [0, 0, 1, 1, 2, 2]  # the one image of class 2 comes twice


def test_first_layer_as_images() -> None:
    convolution, linear = nn.Conv2d(3, 5, 3), nn.Linear(12, 7)
    images = first_layer(nn.Sequential(convolution), (3, 8, 8))
    assert images is not None and torch.equal(images[4, :, :, 2], convolution.weight[4, 2])
    images = first_layer(nn.Sequential(nn.Flatten(), linear), (3, 2, 2))
    assert images is not None and torch.equal(images[6, 1, 0], linear.weight[6].view(3, 2, 2)[:, 1, 0])
    assert first_layer(nn.Sequential(linear), (3, 4, 4)) is None


@pytest.mark.parametrize("setting", ["model=nearest_mean", "test=false"])
def test_what_a_run_lacks_is_left_out(run_train: RunTrain, setting: str) -> None:
    run = run_train("data.limit=200", "data.val_fraction=0", *LAST, setting)
    missing = {"model=nearest_mean": {"filters"}, "test=false": {"confusion", "mistakes", "reliability"}}[setting]
    assert {path.stem for path in run.plots.glob("*.png")} == PLOTS - missing
    assert run.page.exists()


def test_color_images_and_many_classes_are_drawn(run_train: RunTrain, tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    write_npz(path, num_classes=30, shape=(8, 8, 3), num_train=120, num_test=60)
    run = run_train("data=npz", f"data.path={path}", "data.batch_size=60", "data.val_fraction=0.25", *LAST)
    assert {path.stem for path in run.plots.glob("*.png")} >= PLOTS - {"mistakes"}


def test_page_of_a_moved_run_names_its_new_place(run_train: RunTrain, tmp_path: Path) -> None:
    run = run_train(*SHORT, "callbacks=plots", "logger=none")
    moved = RunDir(run.path.rename(tmp_path / "<moved>"))
    text = page.write(moved).read_text()
    assert "evaluate.py run=" in text and "&lt;moved&gt;" in text and "<moved>" not in text


def test_histograms_are_of_every_parameter_and_epoch(run_train: RunTrain) -> None:
    run = run_train(*SHORT, "callbacks=histograms", "model.activation=sigmoid")
    module = lithydra.load(run.path, "last")
    found = histogram_arrays(run)
    for name, parameter in module.net.named_parameters():
        epochs, counts, edges = (found[f"parameter/{name}/{part}"] for part in PARTS)
        assert epochs.tolist() == [0, 1, 2]
        assert (counts.sum(axis=1) == parameter.numel()).all()
        expected = np.histogram(parameter.detach().double().numpy(), 64)
        assert (counts[2] == expected[0]).all()
        assert edges[2] == pytest.approx(expected[1], rel=1e-5)
        assert found[f"gradient/{name}/epochs"].tolist() == [0, 1, 2]
    assert found["activation/hidden.0.1/counts"][2].sum() == 180 * 100  # 180 images are fewer than 256
    assert found["activation/hidden.0.1/edges"][2, 0] >= 0
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    assert {"parameter/head.bias", "gradient/head.bias", "activation/hidden.0.1"} <= set(events.Tags()["histograms"])
    scalars = set(events.Tags()["scalars"])
    assert {"gradient_norm/head.weight", "dead/hidden.0.1", "saturated/hidden.0.1"} <= scalars


@pytest.mark.parametrize(
    "values", [(1.0, 1.0 + 2**-23), (0.25, 0.25 + 2**-25), (3e38, 3e38), (-1e20, -1e20), (0.3, 0.3), (1e-45, 3e-45)]
)
def test_values_that_are_almost_equal_have_a_histogram(values: tuple[float, float]) -> None:
    """As those of BatchNorm's weights have at a small lr."""
    counts, edges = histogram(torch.tensor(values), 64)
    assert counts.sum() == 2 and edges[0] <= values[0] and values[1] <= edges[-1] and len(edges) == 65
    assert np.isfinite(edges).all()


def test_histograms_of_epochs_that_are_trained_again_are_replaced(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert histogram_arrays(run) == {}
    for epoch, count in ((0, 1), (1, 2), (2, 3), (1, 4)):
        histogram = Histogram(np.array([count]), np.array([0.0, 1.0], np.float32))
        add_histograms(run, epoch, {"parameter/x": histogram})
    found = histogram_arrays(run)
    assert found["parameter/x/epochs"].tolist() == [0, 1] and found["parameter/x/counts"].tolist() == [[1], [4]]


def test_dead_and_saturated_units_are_counted() -> None:
    output = torch.rand(50, 4, 3, 3) * 0.8 + 0.1
    output[:, 1] = 0
    assert dead_share(output) == 0.25
    output[:, 2] = 0.999
    output[:, 3] = torch.where(torch.rand(50, 3, 3) > 0.5, 0.001, 0.998)
    output[:25, 2] = 0.5  # saturated for half of the images only
    assert saturated_share(output, 0.0, 1.0) == 0.5


def test_gradient_norm_is_that_before_clipping(run_train: RunTrain) -> None:
    norms = []
    for clip in ("null", "1e-6"):
        settings = ("data.limit=40", "data.val_fraction=0.25", "data.batch_size=30", "callbacks=none", ONE_EPOCH)
        run = run_train(*settings, "trainer.log_every_n_steps=1", f"trainer.gradient_clip_val={clip}")
        events = EventAccumulator(str(run.path / "tensorboard"))
        events.Reload()
        norms.append([event.value for event in events.Scalars("train/gradient_norm")])
    assert norms[0] == norms[1] and norms[0][0] > 1e-3


def test_curves_of_several_runs_are_told_apart() -> None:
    row = {"epoch": "1", "lr": "0.1", "train/loss": "1", "train/acc": "0.5", "val/loss": "", "val/acc": ""}
    drawn = plots.curves({"first": [row], "second": [{**row, "lr": "0.2"}]})
    labels = [text.get_text() for text in drawn.axes[0].get_legend().get_texts()]  # pyright: ignore[reportOptionalMemberAccess]
    assert labels == ["first train", "second train"] and len(drawn.axes) == 3
