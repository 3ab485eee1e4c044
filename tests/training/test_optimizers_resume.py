"""Each optimizer's state, and that of groups, through a kill; also in types that weights are rounded to."""

from pathlib import Path

import pytest
from test_optimization import OPTIMIZERS

from conftest import SMALL
from killing import Killing, SignalAt, differences, outcome
from lithydra.run.directory import RunDir

PROMISE = "1. A killed run resumes bit for bit"

POINTS = {"batch": 10, "before optimizer step": 12, "after optimizer step": 5, "validation": 2, "saving": 7}
CHUNKS = (*SMALL, "trainer.steps_per_execution=4", "checkpoint.every_n_steps=3")
FAST = [("muon in company", "after optimizer step"), ("nadam in 64-true", "batch")]


PRECISIONS = {
    f"{name} in {precision}": (*OPTIMIZERS[name], f"trainer.precision={precision}", "normalization=z_score")
    for name in ("muon", "nadam")
    for precision in ("bf16-true", "64-true")
}
SETTINGS = {**OPTIMIZERS, **PRECISIONS}


@pytest.fixture(scope="module")
def wholes(killing: Killing) -> dict[str, dict]:
    """What each run gives when nothing stops it."""
    return {}


@pytest.mark.counted("kill points, resumed bit-equal")
@pytest.mark.parametrize(
    ("name", "point"),
    [
        pytest.param(name, point, marks=[] if (name, point) in FAST else [pytest.mark.slow])
        for name in SETTINGS
        for point in POINTS
    ],
)
def test_a_killed_run_resumes_bit_for_bit(
    killing: Killing, wholes: dict[str, dict], tmp_path: Path, name: str, point: str
) -> None:
    settings, log = (*CHUNKS, *SETTINGS[name]), killing.outputs / "log"
    if name not in wholes:
        whole = RunDir(killing.outputs / name)
        assert killing.child(*settings, f"run={whole.path}") == 0, log.read_text()
        wholes[name] = outcome(whole)
    run = RunDir(tmp_path / "run")
    assert killing.child(*settings, f"run={run.path}", kill=SignalAt(point, POINTS[point])) == -9
    assert killing.child(f"resume={run.path}") == 0, log.read_text()
    assert differences(wholes[name], outcome(run)) == []
