"""benchmarks/photos.py: the first run with one's own photos, a later one, and a prepared set."""

import re
from pathlib import Path

import pytest


@pytest.mark.slow
def test_three_starts_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from photos import compare

    compare(tmp_path, num_photos=40, repetitions=1)
    said = capsys.readouterr().out
    assert len(re.findall(r"(?:first run|later runs|as many pixels) +│ +\d+\.\d", said)) == 3
    assert len(list((tmp_path / "data0" / "decoded").rglob("*"))) > 0 and len(list(tmp_path.glob("run0*"))) == 3
