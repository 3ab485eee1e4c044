import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch._utils import ExceptionWrapper

from lithydra.data import image_folder
from lithydra.data.image_folder import ImageFolder
from lithydra.data.images import ImageError
from lithydra.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "data"


def make(folder: Path, **changes: Any) -> ImageFolder:
    files = [OmegaConf.load(CONF / f"{file}.yaml") for file in ("_base", "image_folder")]
    settings: Any = OmegaConf.to_container(
        OmegaConf.merge(*files, {"path": str(folder), "seed": 0, "dir": "", "cache_limit_gib": 0, **changes})
    )
    del settings["defaults"], settings["_target_"]
    return ImageFolder(**settings)


def write_images(folder: Path, count: int, value: int = 0, extension: str = "png") -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((6, 9, 3), value + i, np.uint8)).save(folder / f"{i}.{extension}")


def test_image_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            write_images(tmp_path / split / name, count, value=100 * label)
    module = make(tmp_path, image_size=4)
    assert module.class_names() == ("cat", "dog")
    assert module.files() is None
    arrays = module.read()
    assert arrays.x_train.shape == (6, 4, 4, 3) and arrays.x_train[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert arrays.y_train.tolist() == [0, 0, 0, 1, 1, 1] and arrays.y_test.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("Train", "VAL", "Test"),
        ("training", "valid", "testing"),
        ("TRAIN", "Validation", "TEST"),
    ],
)
def test_folders_of_splits_are_found_in_any_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    for value, name in enumerate(names):
        for label, kind in enumerate(("cat", "dog")):
            write_images(tmp_path / name / kind, 3 - value, value=100 * label + 10 * value)
    module = make(tmp_path, image_size=4, batch_size=2)
    module.load()
    assert module.names == ("cat", "dog")
    for split, expected in (("train", [0, 1, 2, 100, 101, 102]), ("val", [10, 11, 110, 111]), ("test", [20, 120])):
        part = getattr(module, split)
        assert part.storage[part.indices][:, 0, 0, 0].tolist() == expected
    assert {"train", "val", "test"} <= module.fingerprint().keys()


def test_without_a_test_folder_the_validation_folder_is_the_test_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ImageNet's layout: results are reported on val/, so val/ may decide nothing."""
    for split, count in (("train", 10), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            write_images(tmp_path / split / name, count, value=100 * label)
    with caplog.at_level(logging.INFO, "lithydra"):
        module = make(tmp_path, image_size=4, batch_size=2)
        module.load()
    assert caplog.messages == [
        f"{tmp_path}: there is no test/, so val/ is the test split; validation is a part of train/"
    ]
    assert (module.facts()["num_train"], module.facts()["num_val"], module.facts()["num_test"]) == (18, 2, 4)


def test_classes_may_have_the_names_of_splits(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        write_images(tmp_path / name, 5)
    assert make(tmp_path).class_names() == ("bus", "train")


def test_a_folder_that_is_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "extra/cat"):
        write_images(tmp_path / name, 5)
    with caplog.at_level(logging.INFO, "lithydra"):
        assert make(tmp_path).class_names() == ("cat", "dog")
    assert caplog.messages == [f"{tmp_path}: extra is not read, as there is test/ and train/"]


def test_image_folder_without_splits_is_divided_by_class(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 10)
    write_images(tmp_path / "dog", 5, value=100)
    write_images(tmp_path / ".hidden", 5)
    modules = [make(tmp_path, seed=seed) for seed in (0, 1)]
    first, second = (module.read() for module in modules)
    assert np.bincount(first.y_train).tolist() == [8, 4] and np.bincount(first.y_test).tolist() == [2, 1]
    values = np.concatenate([first.x_train, first.x_test])[:, 0, 0, 0]
    assert sorted(values) == [*range(10), *range(100, 105)]
    assert np.array_equal(first.x_test, second.x_test)
    assert modules[0].fingerprint() == modules[1].fingerprint()


def test_image_folder_above_the_memory_limit_decodes_on_demand(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5, value=100)
    for channels in (1, 3):
        module = make(tmp_path, image_size=5, channels=channels, memory_limit_gib=0)
        arrays, files = module.read(), module.files()
        assert files is not None
        assert files.keys() == arrays.splits().keys() == {"train", "test"}
        for part, (images, labels) in zip(files.values(), arrays.splits().values(), strict=True):
            assert len(part) == len(images)
            for i in range(len(part)):
                image, label = part[i]
                assert image.shape == (channels, 5, 5) and image.dtype == torch.uint8
                assert np.array_equal(image.permute(1, 2, 0).numpy(), images[i].reshape(5, 5, channels))
                assert label == part.labels[i] == labels[i]


def test_changed_files_change_the_fingerprint(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    before = make(tmp_path).fingerprint()
    for file in (tmp_path / "dog").iterdir():
        file.write_bytes(b"")
    after = make(tmp_path).fingerprint()
    assert before.keys() == after.keys() == {"train", "test", "train_contents", "test_contents"}
    assert before["train"] != after["train"] and before["test"] != after["test"]


def test_exchanged_pixels_change_the_fingerprint(tmp_path: Path) -> None:
    """Files of the same names and sizes; a checksum of these two is what runs before 2026-12 have."""
    write_images(tmp_path / "cat", 5, extension="bmp")
    write_images(tmp_path / "dog", 5, value=100, extension="bmp")
    before = make(tmp_path).fingerprint()
    for old, new in (("cat", "x"), ("dog", "cat"), ("x", "dog")):
        (tmp_path / old).rename(tmp_path / new)
    after = make(tmp_path).fingerprint()
    assert {key for key in before if before[key] != after[key]} == {"train_contents", "test_contents"}


def test_fingerprint_reads_a_bounded_part_of_large_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "SAMPLED_FILES", 3)
    monkeypatch.setattr(image_folder, "SAMPLED_BYTES", 10)
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 10)
    before = make(tmp_path).fingerprint()
    sampled = make(tmp_path)._splits["train"].paths[::6]
    assert len(sampled) == 3
    for position, differs in ((30, False), (-3, True), (5, True)):
        for path in sampled:
            content = bytearray(path.read_bytes())
            content[position] ^= 1
            path.write_bytes(content)
        after = make(tmp_path).fingerprint()
        assert (after["train_contents"] != before["train_contents"]) == differs
        before = after


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.path=nowhere: no such folder$"):
        make(tmp_path, path="nowhere")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "0 class folders in"),
        ({"cat": 3}, "1 class folders in"),
        ({"cat": 3, "dog": 0}, "dog: no images in this folder"),
        ({"cat": 3, "dog": 1}, "class dog has one image; two are the least, or use train/ and test/"),
        ({"train/cat": 1, "train/dog": 1}, "has train/ but no test/ or val/"),
        ({"Test/cat": 1, "Test/dog": 1, "cat": 2}, "has Test/ but no train/ with a folder for each class"),
        ({"Train": 3, "Test": 3}, "has Test/ and Train/, without a folder for each class in them"),
        ({"train/cat": 1, "train/dog": 1, "Train/cat": 1, "test/cat": 1}, "has Train/ and test/ and train/, two for"),
        ({"train/cat": 1, "train/dog": 1, "test": 1}, "0 class folders in"),
        (
            {"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dgo": 1, "test/cat": 1, "test/dog": 1},
            "only one of train/ and val/ has dgo, dog",
        ),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dgo": 1}, "of train/ and test/ has dgo, dog"),
    ],
)
def test_image_folder_refuses_incomplete_folders(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    for name, count in counts.items():
        write_images(tmp_path / name, count)
    with pytest.raises(ConfigError) as caught:
        make(tmp_path).class_names()
    assert str(caught.value).startswith("data.path") and message in str(caught.value)


def test_image_folder_names_unreadable_images(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    (tmp_path / "dog" / "text.png").write_text("text")
    with pytest.raises(ConfigError, match=r"images cannot be used: .*text\.png: not an image"):
        make(tmp_path).read()


@pytest.mark.parametrize("memory_limit_gib", [1, 0])
def test_a_pipe_among_the_images_is_refused_and_never_opened(tmp_path: Path, memory_limit_gib: float) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    module = make(tmp_path, batch_size=2, val_fraction=0, memory_limit_gib=memory_limit_gib)
    with pytest.raises(ConfigError, match=r"pipe\.png: not a regular file"):
        module.load()
        module.fingerprint()


@pytest.mark.parametrize("name", [b"dog/caf\xe9.png", b"caf\xe9/0.png"])
def test_names_that_are_not_utf8_are_refused(tmp_path: Path, name: bytes) -> None:
    write_images(tmp_path / "cat", 5)
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path))
    (tmp_path / "cat" / "0.png").rename(os.fsdecode(path))
    with pytest.raises(ConfigError, match=r"caf\\xe9.*: the name is not UTF-8 \(1 of 1\); rename it$") as caught:
        make(tmp_path).class_names()
    str(caught.value).encode()


def test_error_of_a_worker_process_is_one_line(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    files = make(tmp_path, memory_limit_gib=0).files()
    assert files is not None
    part = files["train"]
    part.paths[0].write_text("text")
    with pytest.raises(ImageError) as caught:
        try:
            part[0]
        except ImageError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()
    assert str(caught.value) == f"{part.paths[0]}: not an image"
