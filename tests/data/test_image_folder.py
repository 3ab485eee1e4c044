from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch._utils import ExceptionWrapper

from lithydra.data.image_folder import ImageFolder
from lithydra.data.images import ImageError
from lithydra.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "data"


def make(folder: Path, **changes: Any) -> ImageFolder:
    files = [OmegaConf.load(CONF / f"{file}.yaml") for file in ("_base", "image_folder")]
    settings: Any = OmegaConf.to_container(OmegaConf.merge(*files, {"path": str(folder), "seed": 0, **changes}))
    del settings["defaults"], settings["_target_"]
    return ImageFolder(**settings)


def write_images(folder: Path, count: int, value: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((6, 9, 3), value + i, np.uint8)).save(folder / f"{i}.png")


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
        for part, images, labels in zip(files, arrays[::2], arrays[1::2], strict=True):
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
    assert before.keys() == after.keys() == {"train", "test"}
    assert before["train"] != after["train"] and before["test"] != after["test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": None}, "data.path=null: data=image_folder needs data.path=FOLDER"),
        ({"path": "nowhere"}, "data.path=nowhere: no such folder"),
        ({"image_size": None}, "data.image_size=null: data=image_folder needs a side in pixels"),
        ({"channels": 4}, "data.channels=4: 1 or 3"),
        ({"test_fraction": 1.0}, "data.test_fraction=1.0: above 0 and below 1"),
    ],
)
def test_image_folder_refuses_bad_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(tmp_path, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "0 class folders in"),
        ({"cat": 3}, "1 class folders in"),
        ({"cat": 3, "dog": 0}, "dog: no images in this folder"),
        ({"cat": 3, "dog": 1}, "class dog has one image; two are the least, or use train/ and test/"),
        ({"train/cat": 1, "train/dog": 1}, "has train/ but no test/"),
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


def test_error_of_a_worker_process_is_one_line(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 5)
    write_images(tmp_path / "dog", 5)
    files = make(tmp_path, memory_limit_gib=0).files()
    assert files is not None
    files[0].paths[0].write_text("text")
    with pytest.raises(ImageError) as caught:
        try:
            files[0][0]
        except ImageError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()
    assert str(caught.value) == f"{files[0].paths[0]}: not an image"
