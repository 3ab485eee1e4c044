"""Evaluate, predict and load: a run directory is all that they need."""

import csv
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

import lithydra
from conftest import CONF, RunTrain, write_npz
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError, LithydraError
from lithydra.run.directory import RunDir
from lithydra.verbs.evaluate import evaluate
from lithydra.verbs.predict import predict

PROMISE = "12. Evaluate and predict are safe"

SMALL = ("data.limit=400", "trainer.max_epochs=3", "callbacks=none", "logger=none")


def settings(verb: str, data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(verb, overrides=["accelerator=cpu", f"paths.data={data_dir}", *overrides])


@pytest.fixture
def run(run_train: RunTrain) -> RunDir:
    return run_train(*SMALL, "model=cnn", "model.channels=[8]", "normalization=z_score")


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


def digit_files(data_dir: Path, folder: Path, count: int) -> np.ndarray:
    """The first test images as PNG files; returns them."""
    folder.mkdir()
    images = np.load(data_dir / "digits.npz")["x_test"][:count]
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return images


def test_predict_agrees_with_the_module(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    images = digit_files(data_dir, tmp_path / "images", 7)
    settled = settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}", "batch_size=3")
    output = predict(settled)["output"]
    rows = list(csv.DictReader(output.read_text().splitlines()))
    module = lithydra.load(run.path)
    top = module.probabilities(module(torch.from_numpy(images)[:, None])).topk(3)
    assert [row["class_1"] for row in rows] == [str(label) for label in top.indices[:, 0].tolist()]
    assert [float(row["probability_2"]) for row in rows] == pytest.approx(top.values[:, 1].tolist(), abs=6e-5)


def test_a_bad_image_is_named_and_the_good_ones_are_predicted(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    digit_files(data_dir, tmp_path / "images", 3)
    (tmp_path / "images" / "bad.png").write_text("not an image")
    with pytest.raises(LithydraError, match=r"1 of 4 images could not be read: .*bad\.png: not an image"):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}"))
    rows = list(csv.DictReader((run.path / "predictions.csv").read_text().splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png"]


def test_npz_gives_json_and_a_contact_sheet(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    file, output = data_dir / "digits.npz", tmp_path / "found.json"
    predict(settings("predict", data_dir, f"run={run.path}", f"input={file}", "format=json", f"output={output}"))
    rows = json.loads(output.read_text())
    images = torch.from_numpy(np.load(file)["x_test"])[:, None]
    module = lithydra.load(run.path)
    with torch.no_grad():
        probabilities = module.probabilities(module(images))
    assert [row["path"] for row in rows[:2]] == [f"{file}[0]", f"{file}[1]"] and len(rows) == len(images)
    for row, expected in zip(rows, probabilities, strict=True):
        assert len(row["predictions"]) == 3
        for guess in row["predictions"]:
            assert guess["probability"] == pytest.approx(float(expected[int(guess["class"])]), abs=1e-6)
    with Image.open(output.with_suffix(".png")) as sheet:
        assert np.asarray(sheet).std() > 20


def test_no_contact_sheet_when_none_is_asked_for(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    digit_files(data_dir, tmp_path / "images", 1)
    predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}", "contact_sheet=0"))
    assert not (run.path / "predictions.png").exists()


def test_npz_of_other_images_is_refused(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    for arrays, message in (
        ({"x": np.zeros((2, 9, 8), np.uint8)}, "x holds images 9x8x1 uint8, and the run takes 8x8x1 uint8"),
        ({"x": np.zeros((2, 8, 8))}, "x holds images 8x8x1 float64"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "has a, b, and none of x_test, images, x"),
    ):
        np.savez(tmp_path / "bad.npz", allow_pickle=False, **arrays)
        with pytest.raises(ConfigError, match=message):
            predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'bad.npz'}"))
    np.savez(tmp_path / "bad.npz", x=np.zeros((0, 8, 8), np.uint8))
    with pytest.raises(ConfigError, match="x holds no images"):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'bad.npz'}"))


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off", b"not an archive"])
def test_what_is_no_npz_is_refused(run: RunDir, data_dir: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ConfigError, match="not an npz file that can be read"):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'bad.npz'}"))


def test_an_npz_that_is_a_zip_bomb_is_not_unpacked(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1_100_000, 8, 8), np.uint8))
    message = r"input=.*bomb\.npz: x is 70,400,128 bytes packed into [\d,]+, and no pictures pack so small"
    with pytest.raises(ConfigError, match=message):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'bomb.npz'}"))


@pytest.mark.parametrize("damage", ["packed bytes", "size in the header"])
def test_a_damaged_array_is_refused(run: RunDir, data_dir: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad.npz"
    if damage == "packed bytes":
        np.savez_compressed(path, x=np.load(data_dir / "digits.npz")["x_test"])
        content = bytearray(path.read_bytes())
        content[60:70] = b"\xff" * 10
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8)}
            np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(ConfigError, match=r"bad\.npz: not an npz file that can be read"):
        predict(settings("predict", data_dir, f"run={run.path}", f"input={path}"))


def test_images_of_an_npz_are_inverted_as_files_are(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=(images := np.load(data_dir / "digits.npz")["x_test"][:9]))
    np.savez(tmp_path / "inverted.npz", x=255 - images)
    found = []
    for name, invert in (("plain", "false"), ("inverted", "true"), ("inverted", "false")):
        given = (f"input={tmp_path / name}.npz", f"invert={invert}", "contact_sheet=0")
        output = predict(settings("predict", data_dir, f"run={run.path}", *given))["output"]
        found.append([line.split(",")[1:] for line in output.read_text().splitlines()])
    assert found[0] == found[1] != found[2]


def test_predictions_do_not_go_where_the_contact_sheet_goes(run: RunDir, data_dir: Path, tmp_path: Path) -> None:
    given = (f"run={run.path}", f"input={data_dir / 'digits.npz'}", f"output={tmp_path / 'found.png'}")
    with pytest.raises(ConfigError, match=r"found\.png: the contact sheet goes there"):
        check_verb(settings("predict", data_dir, *given), "predict")
    check_verb(settings("predict", data_dir, *given, "contact_sheet=0"), "predict")


def test_more_classes_than_there_are_is_refused(run: RunDir, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="top_k=11: the run has 10 classes"):
        predict(settings("predict", data_dir, f"run={run.path}", "input=x.png", "top_k=11"))


def test_of_two_classes_both_are_named(run_train: RunTrain, data_dir: Path, tmp_path: Path) -> None:
    run = run_train(*SMALL, "data.classes=[3,7]", "data.limit=100")
    digit_files(data_dir, tmp_path / "images", 2)
    output = predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}"))["output"]
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [{row["class_1"], row["class_2"]} for row in rows] == [{"3", "7"}] * 2 and "class_3" not in rows[0]


@pytest.mark.parametrize(("value", "told"), [(20, False), (235, True)])
def test_an_inverted_image_is_told(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, value: int, told: bool
) -> None:
    """The training images are bright strokes on black."""
    path = tmp_path / "dark.npz"
    images = np.zeros((60, 8, 8), np.uint8)
    images[:, 2:4] = np.random.default_rng(0).integers(0, 256, (60, 2, 8))
    labels = np.arange(60) % 3
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    run = run_train("data=npz", f"data.path={path}", "data.batch_size=16", "trainer.max_epochs=1", "callbacks=none")
    Image.new("L", (8, 8), value).save(tmp_path / "image.png")
    arguments = (f"run={run.path}", f"input={tmp_path / 'image.png'}")
    predict(settings("predict", data_dir, *arguments))
    assert ("1 of 1 images look inverted" in caplog.text) == told
    caplog.clear()
    predict(settings("predict", data_dir, *arguments, "invert=true"))
    assert ("look inverted" in caplog.text) != told


@pytest.mark.parametrize("mode", ["16 bit", "palette", "alpha", "grey"])
def test_images_of_other_kinds_are_predicted_as_the_plain_one(
    run: RunDir, data_dir: Path, tmp_path: Path, mode: str
) -> None:
    (image,) = digit_files(data_dir, tmp_path / "plain", 1)
    (tmp_path / "other").mkdir()
    grey = Image.fromarray(image)
    converted = {
        "16 bit": lambda: Image.fromarray(image.astype(np.uint16) * 257),
        "palette": lambda: grey.convert("P"),
        "alpha": lambda: grey.convert("LA"),
        "grey": lambda: grey.convert("RGB"),
    }[mode]()
    converted.save(tmp_path / "other" / "0.png")
    rows = []
    for name in ("plain", "other"):
        settled = settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / name / '0.png'}")
        output = predict(settled)["output"]
        rows.append(output.read_text().splitlines()[1].split(",")[1:])
    assert rows[0] == rows[1]


def test_an_image_is_fitted_to_a_run_of_images_that_are_not_square(
    run_train: RunTrain, data_dir: Path, tmp_path: Path
) -> None:
    write_npz(tmp_path / "wide.npz", num_classes=3, shape=(6, 9), num_train=60, num_test=30)
    data = ("data=npz", f"data.path={tmp_path / 'wide.npz'}", "data.batch_size=16")
    run = run_train(*data, "trainer.max_epochs=1", "callbacks=none", "logger=none")
    digit_files(data_dir, tmp_path / "images", 2)
    output = predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}"))["output"]
    assert len(output.read_text().splitlines()) == 3


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


@pytest.mark.parametrize("size", [[], ["data.image_size=8"]])
def test_wide_test_images_as_files_are_predicted_as_in_the_test(
    run_train: RunTrain, data_dir: Path, tmp_path: Path, size: list[str]
) -> None:
    write_npz(tmp_path / "wide.npz", num_classes=3, shape=(12, 24), num_train=90, num_test=30)
    data = ("data=npz", f"data.path={tmp_path / 'wide.npz'}", "data.batch_size=8", *size)
    run = run_train(*data, "lr=0.01", "trainer.max_epochs=8", "callbacks=none", "logger=none")
    (tmp_path / "images").mkdir()
    with np.load(tmp_path / "wide.npz") as file:
        images, labels = file["x_test"], file["y_test"]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")
    output = predict(settings("predict", data_dir, f"run={run.path}", f"input={tmp_path / 'images'}"))["output"]
    found = [row["class_1"] for row in csv.DictReader(output.read_text().splitlines())]
    right = sum(name == str(label) for name, label in zip(found, labels, strict=True))
    assert right / len(labels) == pytest.approx(run.read_status()["metrics"]["test/acc"]) == 1


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
