"""Which files of a data set are read, and which are refused: damaged, of another set, unfit."""

import logging
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lithydra.data import memory
from lithydra.data.prepare import load, prepared, validate
from lithydra.errors import ConfigError
from small_arrays import equal, make_arrays, make_source, with_val

PROMISE = "9. Data are prepared once, whole, and checked"


def test_flipped_byte_in_the_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    prepared(path, num_classes=3, sources=[make_source()])
    data = bytearray(path.read_bytes())
    data[data.find(make_arrays().x_train.tobytes()) + 50] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"x\.npz is damaged \(Bad CRC-32.*\): delete it and it is made anew$"):
        prepared(path, num_classes=3, sources=[make_source()])


def test_no_flipped_byte_changes_the_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    prepared(path, num_classes=3, sources=[make_source()])
    data = path.read_bytes()
    refused = set()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
        try:
            arrays = load(path)
        except ConfigError:
            refused.add(i)
        else:
            assert equal(arrays, make_arrays()), f"byte {i}"
    for array in (make_arrays().x_train, make_arrays().x_test):
        start = data.find(array.tobytes())
        assert refused.issuperset(range(start, start + array.nbytes))


def test_array_shorter_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    prepared(path, num_classes=3, sources=[make_source(partial(make_arrays, 9200))])
    path.write_bytes(path.read_bytes().replace(b"(9200, 4, 4)", b"(1200, 4, 4)"))
    with pytest.raises(ConfigError, match=r"is damaged \(x_train is longer than its header says\)"):
        load(path)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "x.npz"
    prepared(path, num_classes=3, sources=[make_source()])
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ConfigError, match="is damaged"):
        load(path)


def test_file_of_another_data_set_is_refused(tmp_path: Path) -> None:
    prepared(tmp_path / "x.npz", num_classes=3, sources=[make_source()])
    with pytest.raises(ConfigError, match=r"has 3 classes instead of 10: it is another data set"):
        prepared(tmp_path / "x.npz", num_classes=10, sources=[])


def test_missing_keys_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=np.zeros(1), labels=np.zeros(1))
    with pytest.raises(ConfigError, match=r"y_train x_test y_test not there; it has x_train labels, x_train y_train"):
        load(tmp_path / "x.npz")


def test_validation_arrays_are_kept(tmp_path: Path) -> None:
    arrays = with_val(make_arrays())
    assert equal(prepared(tmp_path / "x.npz", num_classes=3, sources=[make_source(lambda: arrays)]), arrays)
    assert equal(load(tmp_path / "x.npz"), arrays)


def test_without_test_arrays_the_validation_arrays_are_the_test_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = make_arrays().by_key()
    np.savez(tmp_path / "x.npz", **{key.replace("test", "val"): array for key, array in given.items()})  # pyright: ignore[reportArgumentType]
    with caplog.at_level(logging.INFO, "lithydra"):
        assert equal(load(tmp_path / "x.npz"), make_arrays())
    assert caplog.messages == [
        f"{tmp_path / 'x.npz'}: there is no x_test, so x_val is the test split; validation is a part of x_train"
    ]


def test_half_a_validation_split_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **make_arrays().by_key(), x_val=make_arrays().x_test)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"y_val not there; it has x_train y_train x_test y_test x_val"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_val": np.zeros((6, 2, 4), np.uint8) + np.eye(2, 4, dtype=np.uint8)}, "in x_train, (2, 4) in x_val"),
        ({"y_val": np.full(6, 7)}, "y_val has the label 7; training labels are 0 to 2"),
        ({"y_val": np.zeros(2, int)}, "y_val has 2 labels for 6 images"),
    ],
)
def test_unfit_validation_arrays_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(with_val(make_arrays())._replace(**changes), "my.npz")
    assert message in str(caught.value)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    objects = np.array([{}, {}], dtype=object)
    np.savez(tmp_path / "x.npz", x_train=objects, y_train=objects, x_test=objects, y_test=objects)
    with pytest.raises(ConfigError, match="Object arrays cannot be loaded"):
        load(tmp_path / "x.npz")


def test_objects_under_keys_that_nobody_reads_are_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **make_arrays().by_key(), names=np.array([{}, "a"], dtype=object))  # pyright: ignore[reportArgumentType]
    assert equal(load(tmp_path / "x.npz"), make_arrays())


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in ("x_train", "y_train", "x_test", "y_test"):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10, 10)}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(10):
                    member.write(bytes(10**7))
    with pytest.raises(ConfigError, match=r"x\.npz: x_train is 100,000,128 bytes packed into [\d,]+, and no pictures"):
        load(tmp_path / "x.npz")


def test_more_than_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path / "x.npz", num_classes=3, sources=[make_source()])
    monkeypatch.setattr(memory, "free_memory", lambda: 500)
    with pytest.raises(ConfigError, match=r"x\.npz: needs 0\.0 GiB of memory, and 0\.0 GiB are free"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_labels_of_any_integer_type_become_int64(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    arrays = make_arrays()
    y_train, y_test = (labels.astype(dtype).reshape(shape) for labels in (arrays.y_train, arrays.y_test))
    np.savez_compressed(tmp_path / "x.npz", **arrays._replace(y_train=y_train, y_test=y_test).by_key())  # pyright: ignore[reportArgumentType]
    assert equal(load(tmp_path / "x.npz"), arrays)


def bad(**changes: Any) -> dict[str, Any]:
    return changes


GOOD = make_arrays()
FLOATS = GOOD.x_train / 255
NANS = FLOATS.copy()
NANS[3, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (bad(x_train=NANS), "x_train has NaN among its pixels; uint8 from 0 to 255 is needed"),
        (bad(x_train=FLOATS), "x_train has dtype float64: scale it to 0..255 and convert it with .astype('uint8')"),
        (bad(x_test=GOOD.x_test.astype(int)), "x_test has dtype int64: scale it to 0..255"),
        (bad(x_train=GOOD.x_train.reshape(12, 16)), "x_train has shape (12, 16); (N, H, W) or (N, H, W, C) is needed"),
        (bad(x_train=GOOD.x_train.reshape(12, 2, 2, 4)), "x_train has 4 channels; 1 or 3 are allowed: convert RGBA"),
        (bad(x_train=GOOD.x_train.reshape(12, 1, 8, 2)), "has 2 channels; 1 or 3 are allowed: move the channels last"),
        (bad(x_train=GOOD.x_train.reshape(12, 4, 2, 2)), "x_train has 2 channels; 1 or 3 are allowed"),
        (bad(x_train=GOOD.x_train[:0]), "x_train is empty"),
        (bad(x_test=GOOD.x_test[:0]), "x_test is empty"),
        (bad(x_train=GOOD.x_train * 0), "x_train holds no picture: every pixel is 0"),
        (bad(x_test=GOOD.x_test[:, :2]), "images of shape (4, 4) in x_train, (2, 4) in x_test; make them equal"),
        (bad(y_train=GOOD.y_train[:5]), "y_train has 5 labels for 12 images"),
        (bad(y_test=GOOD.y_test[:0]), "y_test has 0 labels for 6 images"),
        (bad(y_train=np.eye(3)[GOOD.y_train]), "y_train has shape (12, 3); (N,) is needed"),
        (bad(y_train=GOOD.y_train * 1.5), "y_train has dtype float64; whole numbers are needed"),
        (bad(y_test=GOOD.y_test - 1), "y_test has the label -1; labels start at 0"),
        (bad(y_train=GOOD.y_train * 0), "all training images are of class 0; two classes are the least"),
        (bad(y_train=GOOD.y_train * 2), "y_train goes to 4 but has no image of class 1; number the classes without a"),
        (bad(y_train=GOOD.y_train + 1), "y_train goes to 3 but has no image of class 0"),
        (bad(y_test=GOOD.y_test + 77), "y_test has the label 77; training labels are 0 to 2"),
    ],
)
def test_unfit_arrays_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(GOOD._replace(**changes), "my.npz")
    assert str(caught.value).startswith("my.npz: ")
    assert message in str(caught.value)


def test_fit_arrays_are_accepted() -> None:
    validate(GOOD, "grey", num_classes=3)
    color = [np.repeat(images[..., None], 3, axis=3) for images in (GOOD.x_train, GOOD.x_test)]
    validate(GOOD._replace(x_train=color[0], x_test=color[1]), "color")
