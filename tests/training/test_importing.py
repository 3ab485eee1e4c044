"""Imports without garbage collection."""

import gc
from pathlib import Path

import pytest

from killing import in_child
from lithydra.training.importing import collector_at_rest


def many_objects() -> list[list[int]]:
    return [[number] for number in range(100_000)]


def test_what_is_made_within_is_not_visited_and_what_follows_is(tmp_path: Path) -> None:
    def task() -> None:
        begun: list[int] = []
        made: list[list[int]] = []
        gc.callbacks.append(lambda phase, info: begun.append(info["generation"]))
        with pytest.raises(ImportError), collector_at_rest():
            made += many_objects()
            raise ImportError
        assert not begun and gc.get_freeze_count() > len(made)
        made += many_objects()
        assert begun, "the collector stayed off"

    assert in_child(task, tmp_path / "log") == 0, (tmp_path / "log").read_text()
