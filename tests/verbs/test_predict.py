"""Predict: a run directory and images are all that it needs."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lithydra
from conftest import RunTrain, write_npz
from lithydra.checks.verbs import check_verb
from lithydra.errors import ConfigError, LithydraError
from lithydra.run.directory import RunDir
from lithydra.verbs.predict import predict
from trained import SMALL, settings

PROMISE = "12. Evaluate and predict are safe"


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
