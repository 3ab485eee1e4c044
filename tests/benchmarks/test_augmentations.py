import sys
from pathlib import Path

import pytest

import augmentations


def write_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(augmentations, "PAGE", tmp_path / "augmentations.md")
    monkeypatch.setattr(sys, "argv", ["augmentations.py", "--docs", *arguments])
    augmentations.main()
    return augmentations.PAGE.read_text()


def test_page_has_a_row_for_each_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write_page(tmp_path, monkeypatch, "--batches", "1")
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == list(augmentations.shipped()) == list(printed)
    assert all(int(row[3].removesuffix(" |").replace(",", "")) > 0 for row in rows)
    assert "| shift | Moves an image by up to `pixels` each way; " in page and " | `pixels=2` | " in page
    assert " threads; " in page and "not measured" not in page


def test_page_says_that_nothing_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_page(tmp_path, monkeypatch, "--batches", "0")
    assert "not measured yet" in page and " threads" not in page
    assert "| trivial_augment | One operation of one magnitude, both drawn for each image. |  |  |" in page
