"""What the jobs of a sweep share: the server loads each data set once, and a job never gets another one's images."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from conftest import CONF, QUIET, RunTrain, rows
from lithydra.data import image_folder, shared
from lithydra.data.base import ImageDataModule
from lithydra.data.image_folder import ImageFolder
from lithydra.data.npz import Npz
from lithydra.data.prepare import Arrays
from lithydra.data.splits import TensorSplit
from sweeping import sweep

PROMISE = "20. Nothing is keyed by an address, a clock or a name"

COMMON: dict[str, Any] = {"name": "x", "seed": 0, "batch_size": 2, "eval_batch_size": 2, "val_fraction": 0}


@pytest.fixture(autouse=True)
def as_in_a_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(shared, "_kept", {})
    yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each decoding."""
    real, counts = image_folder.decode_all, []

    def count(paths: Any, **settings: Any) -> np.ndarray:
        counts.append(len(paths))
        return real(paths, **settings)

    monkeypatch.setattr(image_folder, "decode_all", count)
    return counts


def write_folder(folder: Path, seed: int) -> Path:
    """Ten images of 300x300, so large that their memory goes back to the system and comes again."""
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (10, 300, 300, 3), dtype=np.uint8)):
        path = folder / f"class_{number % 2}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def load_folder(folder: Path, **changes: Any) -> Tensor:
    """The training images, as a job would have them."""
    defaults = OmegaConf.load(CONF / "data" / "image_folder.yaml")
    settings: Any = OmegaConf.to_container(
        OmegaConf.merge(defaults, {"path": str(folder), "image_size": 300, "cache_limit_gib": 0})
    )
    del settings["defaults"], settings["_target_"]
    return images(ImageFolder(**{**settings, **COMMON, **changes}))


def images(module: ImageDataModule) -> Tensor:
    module.load()
    assert isinstance(module.train, TensorSplit)
    return module.train.storage


def test_every_folder_keeps_its_own_images(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / str(seed), seed) for seed in range(4)]
    sums = [int(load_folder(folder).sum()) for folder in folders]
    shared._kept = None
    assert sums == [int(load_folder(folder).sum()) for folder in folders]
    assert len(set(sums)) == 4


@pytest.mark.slow
def test_jobs_of_a_sweep_train_on_their_own_images(tmp_path: Path, data_dir: Path, run_train: RunTrain) -> None:
    folders = [write_folder(tmp_path / name, seed) for seed, name in enumerate("ab")]
    small = ("data=image_folder", "data.image_size=300", "data.batch_size=4", "data.val_fraction=0.25", *QUIET)
    paths = f"data.path={','.join(map(str, folders))}"
    done = sweep(*small, paths, "trainer.max_epochs=1", folder=tmp_path / "work", data_dir=data_dir)
    alone = [run_train(*small, f"data.path={folder}", "trainer.max_epochs=1") for folder in folders]
    assert done.code == 0, done.output
    assert [rows(run) for run in done.runs().values()] == [rows(run) for run in alone]
    assert rows(alone[0]) != rows(alone[1])


def test_a_folder_is_decoded_once_for_all_jobs(tmp_path: Path, decoded: list[int]) -> None:
    folder = write_folder(tmp_path / "a", 0)
    first, again = load_folder(folder), load_folder(folder, seed=3, batch_size=4)
    assert first is again and decoded == [8, 2]


@pytest.mark.parametrize("changes", [{"image_size": 20}, {"channels": 1}, {"test_fraction": 0.5}])
def test_another_setting_is_another_data_set(tmp_path: Path, decoded: list[int], changes: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "a", 0)
    load_folder(folder)
    load_folder(folder, **changes)
    assert len(decoded) == 4


def test_changed_images_are_decoded_again(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", 0)
    before = load_folder(folder).clone()
    write_folder(folder, 1)
    assert not torch.equal(before, load_folder(folder))


def test_an_npz_file_is_known_by_its_content_not_by_its_time(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    found = []
    for value in (1, 2):
        labels = np.arange(4) % 2
        pixels = np.full((4, 3, 3), value, np.uint8) * (1 + labels[:, None, None]).astype(np.uint8)
        np.savez(path, x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
        os.utime(path, ns=(0, 0))
        found.append(int(images(Npz(path=str(path), **COMMON)).max()))
    assert found == [2, 4]


class Brighter(Npz):
    """An own data set that does something of its own with a file's images."""

    def __init__(self, *, by: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.by = by

    def read(self) -> Arrays:
        arrays = super().read()
        return arrays._replace(x_train=arrays.x_train + np.uint8(self.by))


class Inverted(Npz):
    """One that changes in place what it has been given."""

    def read(self) -> Arrays:
        arrays = super().read()
        np.subtract(255, arrays.x_train, out=arrays.x_train)
        return arrays


def test_shared_arrays_cannot_be_changed_in_place(tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server did it and each job again, they would train on something else than a run of its own."""
    with pytest.raises(ValueError, match="read-only"):
        images(Inverted(path=str(tiny_npz), **COMMON))
    monkeypatch.setattr(shared, "_kept", None)
    plain, inverted = (images(kind(path=str(tiny_npz), **COMMON)) for kind in (Npz, Inverted))
    assert torch.equal(inverted, 255 - plain)


def test_what_an_own_data_set_makes_of_a_file_is_its_own(tmp_path: Path, tiny_npz: Path) -> None:
    plain = images(Npz(path=str(tiny_npz), **COMMON))
    for by in (1, 2):
        found = images(Brighter(path=str(tiny_npz), by=by, **COMMON))
        assert torch.equal(found, plain + by)
    assert images(Npz(path=str(tiny_npz), **COMMON)) is plain
