"""What is written is whole or absent."""

from pathlib import Path

import pytest

from lithydra.errors import LithydraError
from lithydra.files import replacing, write_text


def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "a.txt"
    with pytest.raises(LithydraError, match=rf"^{path}: cannot be written: No such file"):
        write_text(path, "text")
