"""A data set that is made by code is made anew when the code has changed."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, fingerprint
from lithydra.data.sources import idx_files

CODE = """
from functools import partial
from pathlib import Path
import numpy as np
from lithydra.data.base import ImageDataModule
from lithydra.data.prepare import Arrays, Source, fingerprint, prepared

class Drawn(ImageDataModule):
    def __init__(self, *, dir, **common):
        super().__init__(**common)
        self.file = Path(dir) / "drawn.npz"

    def read(self):
        source = Source("a generator", partial(draw, 12), by_hand=False)
        return prepared(self.file, num_classes=2, sources=[source])

def draw(num_images):
    labels = np.arange(num_images) % 2
    images = (labels[:, None, None] + np.full((1, 3, 3), BRIGHTNESS)).astype(np.uint8)
    return Arrays(images, labels, images, labels)
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], type[ImageDataModule]]]:
    """`imported(code)` is the class of the module as a new process would import it."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_and_import(code: str) -> type[ImageDataModule]:
        (tmp_path / "code" / "own_drawn.py").write_text(code)
        sys.modules.pop("own_drawn", None)
        importlib.invalidate_caches()
        return importlib.import_module("own_drawn").Drawn

    yield write_and_import
    sys.modules.pop("own_drawn", None)


def brightness(kind: type[ImageDataModule], folder: Path) -> int:
    common: dict[str, Any] = {"name": "x", "seed": 0, "batch_size": 2, "eval_batch_size": 2, "val_fraction": 0}
    return int(kind(dir=str(folder), **common).read().x_train.min())  # pyright: ignore[reportCallIssue]


def code(value: int) -> str:
    return f"BRIGHTNESS = {value}\n{CODE}"


def test_edited_generator_makes_the_data_anew(
    imported: Callable[[str], type[ImageDataModule]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert brightness(imported(code(10)), tmp_path) == 10
    with caplog.at_level(logging.INFO, "lithydra"):
        assert brightness(imported(code(20)), tmp_path) == 20
    assert caplog.messages == [f"{tmp_path / 'drawn.npz'} was made by code that has changed since: making it anew"]
    assert list(fingerprint(tmp_path / "drawn.npz")) == ["x_train", "y_train", "x_test", "y_test"]


def test_same_generator_leaves_the_file(imported: Callable[[str], type[ImageDataModule]], tmp_path: Path) -> None:
    for _ in range(2):
        assert brightness(imported(code(10)), tmp_path) == 10
        first = (tmp_path / "drawn.npz").stat().st_mtime_ns
        assert brightness(imported(code(10)), tmp_path) == 10
        assert (tmp_path / "drawn.npz").stat().st_mtime_ns == first


def test_code_counts_as_it_was_imported(imported: Callable[[str], type[ImageDataModule]], tmp_path: Path) -> None:
    """A sweep's server may have imported it long before it is edited and the data are made."""
    kind = imported(code(10))
    (tmp_path / "code" / "own_drawn.py").write_text(code(20))
    assert brightness(kind, tmp_path) == 10
    assert brightness(imported(code(20)), tmp_path) == 20


def test_what_cannot_be_made_anew_is_used_and_said(
    imported: Callable[[str], type[ImageDataModule]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert brightness(imported(code(10)), tmp_path) == 10
    broken = code(20).replace("def draw(num_images):", "def draw(num_images):\n    raise OSError('no such folder')")
    assert brightness(imported(broken), tmp_path) == 10
    reason = "so the old file is used. Tried: a generator (no such folder)"
    assert caplog.messages[-1] == f"{tmp_path / 'drawn.npz'} cannot be made anew, {reason}"


def test_files_without_a_word_of_their_code_are_used(
    imported: Callable[[str], type[ImageDataModule]], tmp_path: Path
) -> None:
    """Those of earlier versions, of Keras, of a person."""
    images, labels = np.stack([np.full((3, 3), 7), np.full((3, 3), 8)]).astype(np.uint8), np.arange(2)
    np.savez(tmp_path / "drawn.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert brightness(imported(code(20)), tmp_path) == 7


def test_published_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lithydra.data import prepare

    source = idx_files(tmp_path, "raw files")
    assert source.published and prepare._code(source) == ""
    labels = np.arange(4) % 2
    pixels = np.arange(36, dtype=np.uint8).reshape(4, 3, 3)
    read = prepare.Source(source.what, lambda: Arrays(pixels, labels, pixels, labels), published=True)
    prepare.prepared(tmp_path / "x.npz", num_classes=2, sources=[read])
    monkeypatch.setattr(prepare, "_first", None)
    prepare.prepared(tmp_path / "x.npz", num_classes=2, sources=[read])
