"""Image files are decoded once: their pixels are kept, and kept pixels are those of the files."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_image_folder import make, write_images

from lithydra.data import decoded, images
from lithydra.data.decoded import DecodedFiles
from lithydra.data.images import ImageError
from lithydra.data.splits import FileSplit

KEPT = {"cache_limit_gib": 1}
LIMITS = {"memory": 1.0, "disk": 0.0}  # data.memory_limit_gib


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("cat", "dog")):
            write_images(tmp_path / "photos" / split / name, count, value=100 * label)
    return tmp_path / "photos"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded."""
    seen: list[Path] = []
    real = images.decode

    def decode(path: Path, **how: Any) -> np.ndarray:
        seen.append(path)
        return real(path, **how)

    monkeypatch.setattr(images, "decode", decode)
    return seen


def pixels(folder: Path, where: str, **changes: Any) -> torch.Tensor:
    """All training images (N, C, H, W), as a run gets them."""
    settings = {"batch_size": 4, "val_fraction": 0, "image_size": 5, "dir": str(folder.parent / "data"), **KEPT}
    module = make(folder, memory_limit_gib=LIMITS[where], **{**settings, **changes})
    module.load()
    assert module.train is not None
    return next(module.train.batches([torch.arange(len(module.train))]))[0]


def kept(folder: Path) -> list[Path]:
    return sorted((folder.parent / "data" / "decoded").rglob("*"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("where", LIMITS)
def test_the_second_time_nothing_is_decoded(folder: Path, counted: list[Path], where: str, channels: int) -> None:
    plain = pixels(folder, where, cache_limit_gib=0, channels=channels)
    assert not kept(folder)
    counted.clear()
    first = pixels(folder, where, channels=channels)
    assert len(counted) == 18 and [path.name.partition("-")[0] for path in kept(folder)[1:]] == ["test", "train"]
    counted.clear()
    assert torch.equal(pixels(folder, where, channels=channels), first) and torch.equal(first, plain)
    assert counted == []


@pytest.mark.parametrize("where", LIMITS)
def test_a_change_of_a_file_is_seen_and_replaces_what_was_kept(folder: Path, where: str) -> None:
    before = pixels(folder, where)
    names = {path.name for path in kept(folder)}
    changed = folder / "train" / "cat" / "3.png"
    changed.unlink()
    images.Image.fromarray(np.full((6, 9, 3), 77, np.uint8)).save(changed)
    after = pixels(folder, where)
    assert (after[3] == 77).all() and torch.equal(after[[0, 1, 2]], before[[0, 1, 2]])
    assert len(kept(folder)) == len(names) and {path.name for path in kept(folder)} != names


@pytest.mark.parametrize("where", LIMITS)
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damage_is_noticed(folder: Path, where: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    before = pixels(folder, where)
    place = next(path for path in kept(folder) if path.name.startswith("train"))
    content = bytearray(place.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[-200] ^= 4
    place.write_bytes(content)
    assert torch.equal(pixels(folder, where), before)
    assert f"{place}: damaged, so the images are decoded again" in caplog.text
    caplog.clear()
    assert torch.equal(pixels(folder, where), before) and "damaged" not in caplog.text


@pytest.mark.parametrize("where", LIMITS)
def test_where_nothing_can_be_kept_it_is_said_and_goes_on(
    folder: Path, where: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    without = pixels(folder, where, dir=str(tmp_path / "file"))
    assert "decoded images are not kept: Not a directory" in caplog.text
    assert torch.equal(without, pixels(folder, where))


@pytest.mark.parametrize("where", LIMITS)
def test_of_a_set_with_a_broken_image_nothing_is_left(folder: Path, where: str) -> None:
    (folder / "train" / "dog" / "2.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1 of 12 images cannot be used: .*dog/2\.png: not an image"):
        pixels(folder, where)
    assert not [path for path in kept(folder) if path.is_file() and path.name.startswith((".", "train"))]


def test_a_run_goes_on_when_another_one_replaces_what_it_reads(folder: Path) -> None:
    settings = {"image_size": 5, "batch_size": 4, "dir": str(folder.parent / "data"), **KEPT}
    module = make(folder, memory_limit_gib=0, num_workers=1, val_fraction=0, **settings)
    module.load()
    assert isinstance(module.train, FileSplit)
    positions, names = [torch.arange(len(module.train))], {path.name for path in kept(folder)}
    before = next(module.train.batches(positions))[0]
    os.utime(folder / "train" / "cat" / "3.png", (0, 0))
    pixels(folder, "disk")
    assert not names & {path.name for path in kept(folder) if path.name.startswith("train")}
    assert torch.equal(next(module.train.batches(positions))[0], before)  # by a new worker, as in each epoch
    sent = pickle.loads(pickle.dumps(module.train.dataset))  # where workers are not forked
    assert torch.equal(torch.stack([sent[i][0] for i in range(len(sent))]), before)


def test_what_is_kept_goes_by_the_folder_and_not_by_what_was_typed(
    folder: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = str(folder.parent / "data")
    first = pixels(folder, "disk", dir=data)
    counted.clear()
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").symlink_to(folder)
    for typed in ("photos", "./data/../photos", "link"):
        assert torch.equal(pixels(Path(typed), "disk", dir=data), first)
    assert counted == []


def test_what_lies_on_disk_is_not_sent_to_another_process(folder: Path) -> None:
    module = make(folder, memory_limit_gib=0, image_size=5, dir=str(folder.parent / "data"), **KEPT)
    files = module.files()
    assert files is not None
    train = files["train"]
    assert isinstance(train, DecodedFiles)
    image, label = train[7]
    sent = pickle.loads(pickle.dumps(train))
    assert sent._pixels is None and torch.equal(sent[7][0], image) and sent[7][1] == label == 1


def test_the_checksum_is_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(1000, dtype=np.uint8).reshape(10, 100)
    whole = decoded._checksum(array)
    monkeypatch.setattr(decoded, "PART", 64)
    assert decoded._checksum(array) == whole
