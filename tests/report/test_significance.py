"""Verdicts by simulation: how often chance alone is decided on, and how often an effect is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from by_hand import write_sweep
from lithydra.report import significance
from lithydra.report.significance import LEVEL, holm, paired, unpaired
from lithydra.report.verdicts import UNCLEAR, judge
from lithydra.sweeps.directory import Plan
from lithydra.sweeps.results import results

PROMISE = "16. A verdict means something"

STUDIES = 20_000
# Of this many studies at a true rate of 5 %, all but one in a thousand have a share below this.
AT_MOST = LEVEL + 3.1 * (LEVEL * (1 - LEVEL) / STUDIES) ** 0.5


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(16)


def share(decided: np.ndarray) -> float:
    return float(decided.mean())


@pytest.mark.parametrize("rules", [1, 3, 10])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_without_an_effect_at_most_one_study_in_twenty_decides(
    draw: np.random.Generator, seeds: int, rules: int
) -> None:
    """A control and as many settings as rules, which therefore are not independent; and what a seed does to all."""
    scores = draw.normal(size=(STUDIES, 1 + rules, seeds)) + 3 * draw.normal(size=(STUDIES, 1, seeds))
    p = holm(paired(scores[:, 1:] - scores[:, :1]))
    assert 0.03 < share(p.min(axis=-1) < LEVEL) < AT_MOST


@pytest.mark.parametrize(("mine", "theirs"), [(2, 2), (2, 10), (3, 5), (5, 5)])
@pytest.mark.parametrize("ratio", [0.2, 1, 5])
def test_other_seeds_and_another_spread_decide_no_more_often(
    draw: np.random.Generator, mine: int, theirs: int, ratio: float
) -> None:
    sides = draw.normal(size=(STUDIES, mine)), ratio * draw.normal(size=(STUDIES, theirs))
    assert share(unpaired(*sides) < LEVEL) < AT_MOST


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_metrics_of_few_values_decide_no_more_often(draw: np.random.Generator, seeds: int, rate: float) -> None:
    """Where all differences are the same, t is infinite."""
    diverged = (draw.random((2, STUDIES, seeds)) < rate).astype(float)
    assert share(paired(diverged[0] - diverged[1]) < LEVEL) < AT_MOST


@pytest.mark.parametrize("alike", [0, 0.5, 1])
def test_the_best_of_five_is_above_the_others_by_chance_no_more_often(draw: np.random.Generator, alike: float) -> None:
    """`alike` is how much the test metric is that of validation, by which the best was chosen.

    What chose nothing decides too often as well, if it shares the luck of a run: hence the factor of five.
    """
    validation = draw.normal(size=(STUDIES, 5, 5))
    test = alike * validation + (1 - alike**2) ** 0.5 * draw.normal(size=validation.shape)
    best = np.take_along_axis(test, validation.mean(-1).argmax(-1)[:, None, None], axis=1)[:, 0]
    p = paired(best - (test.sum(axis=1) - best) / 4)
    assert share(5 * p < LEVEL) < AT_MOST
    if alike:
        assert share(p < LEVEL) > AT_MOST


def test_folds_share_training_images(draw: np.random.Generator) -> None:
    """Five folds whose differences are correlated as much as the correction assumes (Nadeau and Bengio, section 3)."""
    shared = 0.2 / (1 + 0.25)  # correlation: test over all images
    folds = (1 - shared) ** 0.5 * draw.normal(size=(STUDIES, 5)) + shared**0.5 * draw.normal(size=(STUDIES, 1))
    assert share(paired(folds, overlap=0.25) < LEVEL) < AT_MOST < share(paired(folds) < LEVEL)


def test_two_standard_deviations_and_five_seeds_show(draw: np.random.Generator) -> None:
    """Standard deviations of the differences, which is what a seed does not do to both sides.

    Of a single run's, where the sides share nothing, no test of this level can: Student's unpaired one comes to 79 %.
    """
    assert share(paired(2 + draw.normal(size=(STUDIES, 5))) < LEVEL) > 0.88
    common = 0.3**0.5 * draw.normal(size=(STUDIES, 5))
    mine, theirs = (common + 0.7**0.5 * draw.normal(size=(STUDIES, 5)) for _ in range(2))
    assert share(paired(2 + mine - theirs) < LEVEL) > 0.79


def test_holms_correction() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([])).tolist() == []


@pytest.mark.parametrize("seeds", [1, 3])
def test_whole_studies_without_an_effect_decide_as_seldom(
    draw: np.random.Generator, tmp_path: Path, seeds: int
) -> None:
    """From the rules of a study to its verdicts: three comparisons and the best of five settings."""
    axes = {"net": list("abcde"), "seed": [str(seed) for seed in range(seeds)]}
    sweep = write_sweep(tmp_path / "s", axes, lambda _: 0.5)
    plan: Plan = sweep.read()
    plan.study = {
        "verdict": [
            {"metric": "val/acc", "of": {"net": "a"}, "above": [{"net": "b"}, {"net": "c"}]},
            {"metric": "val/acc", "of": {"net": "d"}, "below": 0.5},
            {"metric": "test/acc", "of": {"best": True}, "above": {}},
        ]
    }
    frame: Any = results(sweep.path)
    decided = 0
    for _ in range(15):
        noise = draw.normal(size=len(frame))
        frame["val/acc"] = 0.5 + 0.01 * noise
        frame["test/acc"] = 0.5 + 0.008 * noise + 0.006 * draw.normal(size=len(frame))
        decided += any(outcome.verdict != UNCLEAR for outcome in judge(plan, frame, frame))
    assert decided == 0 if seeds == 1 else decided <= 4  # more come in 1 of 2,000 trials at 5 %


def test_a_difference_that_does_not_vary_is_told_by_its_signs_alone() -> None:
    assert significance.paired(np.full(3, 0.1)).item() == 0.25
    assert significance.paired(np.zeros(3)).item() == 1
    assert significance.unpaired(np.full(3, 0.1), np.full(3, 0.2)).item() == pytest.approx(0.1)
