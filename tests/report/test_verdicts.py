"""A study's rules, each on a sweep made by hand where the answer is known."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lithydra
from by_hand import write_sweep
from lithydra.errors import ConfigError
from lithydra.report.page import report_sweep
from lithydra.report.verdicts import Outcome, judge, overall
from lithydra.sweeps.directory import SweepDir
from lithydra.sweeps.results import curves
from lithydra.sweeps.study import check_rules

PROMISE = "16. A verdict means something"
SEEDS = ["0", "1", "2", "3", "4"]
OBJECTIVE = {"metric": "val/acc", "mode": "max"}
MEANS = {"a": 0.8, "b": 0.7, "c": 0.795}
NOISE = {"a": (1, -2, 0, 2, -1), "b": (0, -1, 1, 2, -2), "c": (-1, 2, 1, -2, 0)}  # hundredths, by seed


def score(point: dict[str, str]) -> float:
    net, seed = point["net"], int(point.get("seed", 2))
    return MEANS.get(net, 0.1) + 0.01 * NOISE.get(net, (0,) * 5)[seed]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    axes = {"net": [*MEANS, "d"], "seed": SEEDS}
    states = {f"net=d,seed={seed}": "diverged" for seed in SEEDS}
    return write_sweep(tmp_path_factory.mktemp("sweeps") / "s", axes, score, states=states)


def outcomes(sweep: SweepDir, *rules: dict[str, Any]) -> list[Outcome]:
    frame = lithydra.results(sweep.path)
    plan = replace(sweep.read(), study={"verdict": list(rules)})
    return judge(plan, frame, curves(frame, []))


def verdicts(sweep: SweepDir, *rules: dict[str, Any]) -> list[str]:
    return [outcome.verdict for outcome in outcomes(sweep, *rules)]


@pytest.mark.parametrize(
    ("rule", "verdict"),
    [
        ({"of": {"net": "a"}, "above": {"net": "b"}}, "shows"),
        ({"of": {"net": "b"}, "above": {"net": "a"}}, "does not show"),
        ({"of": {"net": "a"}, "above": {"net": "c"}}, "unclear"),
        ({"of": {"net": "b"}, "below": {"net": "a"}, "by": 0.05}, "shows"),
        ({"of": {"net": "a"}, "above": {"net": "b"}, "by": 0.2}, "does not show"),
        ({"of": {"net": "a"}, "above": {"net": "b"}, "by": 0.095}, "unclear"),
        ({"of": {"net": "a"}, "above": 0.7}, "shows"),
        ({"of": {"net": "a"}, "above": 0.795}, "unclear"),
        ({"of": {"net": "a"}, "above": {"net": "d"}}, "unclear"),  # none of it finished
        ({"of": {"net": "a"}, "above": {}}, "shows"),  # all the others
        ({"of": {"net": "a"}, "above": {"net": "b"}, "at_epoch": 1}, "shows"),
        ({"metric": "gap", "of": {"net": "a"}, "above": 0.4, "at_epoch": 1}, "shows"),
        ({"metric": "layers/weight_std", "of": {"net": "a"}, "above": 0.1, "at_epoch": 1}, "unclear"),  # not measured
        ({"metric": "diverged", "of": {"net": "d"}, "above": {"net": "a"}}, "unclear"),  # five coins agree in 1 of 16
        ({"metric": "seconds", "of": {"net": "a"}, "below": {"net": "b"}}, "unclear"),  # the same
        ({"metric": "seconds", "until": {"val/acc": 0.6}, "of": {"net": "a"}, "below": 4}, "shows"),  # in epoch 2
        ({"metric": "seconds", "until": {"val/loss": 0.9}, "of": {"net": "a"}, "below": 2.5}, "shows"),  # epoch 1
        ({"metric": "seconds", "until": {"val/acc": 0.99}, "of": {"net": "a"}, "below": 3}, "unclear"),  # none ever
        ({"metric": "test/acc", "of": {"best": True}, "below": {}}, "shows"),  # here, what is good by validation is bad
        ({"metric": "test/acc", "of": {"best": True}, "above": {"net": "b"}}, "does not show"),
        ({"metric": "optimism", "of": {"best": True}, "above": 0.5}, "shows"),  # 0.8 - 0.2
        ({"metric": "test/acc", "rises_with": "val/acc"}, "unclear"),  # three settings
    ],
)
def test_a_verdict_is_given_where_chance_is_unlikely(sweep: SweepDir, rule: dict[str, Any], verdict: str) -> None:
    assert verdicts(sweep, {"metric": "val/acc", **rule}) == [verdict]


def test_runs_that_never_reach_a_value_are_counted(sweep: SweepDir) -> None:
    rule = {"metric": "seconds", "until": {"val/acc": 0.79}, "of": {"net": "a"}, "below": {"net": "b"}}
    (outcome,) = outcomes(sweep, rule)
    assert outcome.verdict == "unclear"
    assert outcome.figures == "never reached val/acc ≥ 0.79 by 1 of net=a and 5 of net=b"


def test_the_best_is_a_setting_by_its_mean(sweep: SweepDir) -> None:
    """The best run is one of c; a is the best setting. Its p value is tripled, as it is the best of three."""
    (best,) = outcomes(sweep, {"metric": "test/acc", "of": {"best": True}, "below": {"net": "b"}})
    (named,) = outcomes(sweep, {"metric": "test/acc", "of": {"net": "a"}, "below": {"net": "b"}})
    assert "best=True: 0.2000 (n = 5)" in best.figures and "the best of 3" in best.figures
    first, second = (float(re.findall(r"p = (\S+)", outcome.figures)[0]) for outcome in (named, best))
    assert second == pytest.approx(3 * first, rel=0.1)


def test_several_comparisons_are_corrected_for(sweep: SweepDir) -> None:
    likely = {"metric": "val/acc", "of": {"net": "a"}, "above": 0.778}
    sure = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}
    unlikely = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "c"}}
    assert verdicts(sweep, likely, sure) == ["shows", "shows"]
    assert verdicts(sweep, likely, sure, unlikely) == ["unclear", "shows", "unclear"]
    assert "corrected for 3 comparisons" in outcomes(sweep, likely, sure, unlikely)[0].figures


def test_seeds_that_both_sides_have_are_paired_and_others_are_not(tmp_path: Path) -> None:
    """What all nets gain by a seed decides nothing where the seeds are shared, and widens the spread where not."""
    luck = [0.0, 0.05, 0.1, -0.05, -0.1]

    def by_seed(point: dict[str, str]) -> float:
        return score(point) + luck[int(point["seed"])]

    axes = {"net": ["a", "b"], "seed": SEEDS}
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}
    (shared,) = outcomes(write_sweep(tmp_path / "shared", axes, by_seed), rule)
    assert shared.verdict == "shows" and "paired by 5 seeds" in shared.figures
    states = {f"net={net},seed={seed}": "failed" for net, seed in ("a0", "a1", "b2", "b3", "b4")}
    (other,) = outcomes(write_sweep(tmp_path / "other", axes, by_seed, states=states), rule)
    assert other.verdict == "unclear" and "3 seeds against 2 others" in other.figures


def test_a_side_of_several_settings_counts_seeds_and_not_runs(sweep: SweepDir) -> None:
    (outcome,) = outcomes(sweep, {"metric": "val/acc", "of": {"net": "a"}, "above": {}})
    assert "all others: 0.7475 (n = 10)" in outcome.figures  # b and c; d has no finished run
    assert "paired by 5 seeds" in outcome.figures


LOST = {f"bn=off,lr=1,seed={seed}": "diverged" for seed in SEEDS}
HALF = {**LOST, **{f"bn=off,lr=0.1,seed={seed}": "not started" for seed in "34"}}


@pytest.mark.parametrize(("states", "runs", "paired"), [(LOST, 10, 5), (HALF, 6, 3)])
def test_a_setting_that_one_side_lost_decides_nothing(
    tmp_path: Path, states: dict[str, str], runs: int, paired: int
) -> None:
    """With bn each rate is better by 0.02; the rate 1, far worse than the others, diverges without it."""
    means = {"0.01": 0.8, "0.1": 0.9, "1": 0.3}

    def by_rate(point: dict[str, str]) -> float:
        noise = NOISE["a" if point["bn"] == "on" else "b"][int(point["seed"])]
        return means[point["lr"]] + 0.02 * (point["bn"] == "on") + 0.001 * noise

    sweep = write_sweep(tmp_path / "s", {"bn": ["on", "off"], "lr": list(means), "seed": SEEDS}, by_rate, states=states)
    for other in ({"bn": "off"}, {}):
        (outcome,) = outcomes(sweep, {"metric": "val/acc", "of": {"bn": "on"}, "above": other})
        assert outcome.verdict == "shows", outcome.figures
        assert outcome.figures.count(f"(n = {runs})") == 2 and f"paired by {paired} seeds" in outcome.figures
        assert "; without lr=1: not finished on both sides" in outcome.figures


def test_sides_that_share_no_finished_setting_are_not_compared(tmp_path: Path) -> None:
    lost = {f"lr={lr},net={net},seed={seed}": "failed" for lr, net in (("1", "a"), ("2", "b")) for seed in SEEDS}
    axes = {"net": ["a", "b"], "lr": ["1", "2"], "seed": SEEDS}
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}
    (outcome,) = outcomes(write_sweep(tmp_path / "s", axes, score, states=lost), rule)
    assert (outcome.verdict, outcome.figures) == ("unclear", "no setting has finished with both net=a and net=b")


def test_sides_of_other_settings_by_design_keep_all_of_theirs(tmp_path: Path) -> None:
    """The best net at the best rate against both nets at the other rate."""
    sweep = write_sweep(tmp_path / "s", {"net": ["a", "b"], "lr": ["1", "2"], "seed": SEEDS}, score)
    (outcome,) = outcomes(sweep, {"metric": "test/acc", "of": {"best": True}, "below": {"lr": "2"}})
    assert "lr=2: 0.2500 (n = 10)" in outcome.figures and "without" not in outcome.figures


def test_folds_share_images_and_count_for_less(tmp_path: Path) -> None:
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": 0.779}
    by_seed = write_sweep(tmp_path / "s", {"net": ["a", "b"], "seed": SEEDS}, score)
    by_fold = write_sweep(
        tmp_path / "f", {"net": ["a", "b"], "data.fold": SEEDS}, lambda p: score({**p, "seed": p["data.fold"]})
    )
    assert (verdicts(by_seed, rule), verdicts(by_fold, rule)) == (["shows"], ["unclear"])


def test_a_list_is_compared_with_each(sweep: SweepDir) -> None:
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": [{"net": "b"}, {"net": "c"}]}
    assert verdicts(sweep, rule) == ["shows", "unclear"]


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"net": ["a", "b"]}, score)
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}
    found = outcomes(sweep, rule, {**rule, "by": 0.05}, {**rule, "above": 0.1})
    assert [outcome.verdict for outcome in found] == ["unclear"] * 3
    assert all(outcome.figures.endswith("one seed decides nothing") for outcome in found)


def test_divergence_is_told_of_jobs_that_finished_or_diverged_alone(tmp_path: Path) -> None:
    others = {"net=b,seed=1": "not started", "net=b,seed=2": "interrupted", "net=b,seed=3": "failed"}
    states = {**{f"net=a,seed={seed}": "diverged" for seed in SEEDS}, **others}
    sweep = write_sweep(tmp_path / "s", {"net": ["a", "b"], "seed": SEEDS}, score, states=states)
    (outcome,) = outcomes(sweep, {"metric": "diverged", "of": {"net": "a"}, "above": {"net": "b"}})
    assert "net=a: 1.0000 (n = 2); net=b: 0.0000 (n = 2)" in outcome.figures
    assert "paired by 2 seeds" in outcome.figures


def test_a_search_shows_whether_test_rises_with_validation(tmp_path: Path) -> None:
    lrs = [str(0.001 * i) for i in range(1, 13)]
    sweep = write_sweep(tmp_path / "s", {"lr": lrs}, lambda p: 0.5 + float(p["lr"]))
    (outcome,) = outcomes(sweep, {"metric": "test/acc", "rises_with": "val/acc"})
    assert outcome.verdict == "does not show" and "Kendall's rank correlation -1.00" in outcome.figures
    assert verdicts(sweep, {"metric": "train/acc", "rises_with": "val/acc"}) == ["shows"]


@pytest.mark.parametrize("axis", ["seed", "data.fold"])
def test_repeats_alone_have_no_settings_to_rank(tmp_path: Path, axis: str) -> None:
    """Refused before the first job, and unclear in the report of a sweep from before that."""
    rule = {"metric": "test/acc", "rises_with": "val/acc"}
    with pytest.raises(
        ConfigError, match=r"rises_with=val/acc: ranks settings, and beside seed and data\.fold nothing"
    ):
        check_rules({"verdict": [rule]}, {axis: SEEDS}, "val/acc")
    (outcome,) = outcomes(write_sweep(tmp_path / "s", {axis: SEEDS}, lambda p: 0.1 * int(p[axis])), rule)
    assert outcome.verdict == "unclear" and "ranks settings" in outcome.figures


def test_an_old_study_with_a_rule_of_another_form_is_reported_as_unclear(sweep: SweepDir) -> None:
    (outcome,) = outcomes(sweep, {"metric": "val/acc", "of": {"best": True}, "above": {}, "by": 0})
    assert outcome.verdict == "unclear" and "it chose {best: true}" in outcome.figures


def test_the_whole_verdict_needs_every_rule(sweep: SweepDir) -> None:
    def whole(*pairs: str) -> str:
        rules = [{"metric": "val/acc", "of": {"net": x}, "above": {"net": y}} for x, y in pairs]
        return overall(outcomes(sweep, *rules))

    assert (whole("ab", "cb"), whole("ab", "ac"), whole("ab", "ac", "ba")) == ("shows", "unclear", "does not show")


def test_the_report_states_expectation_figures_and_verdict(tmp_path: Path) -> None:
    study = {
        "title": "A against B",
        "expectation": "A is ahead.",
        "verdict": [{"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}],
    }
    sweep = write_sweep(
        tmp_path / "s",
        {"net": ["a", "b"], "seed": SEEDS},
        score,
        study=study,
    )
    report_sweep(sweep.path)
    for file in ("report.html", "report.md"):
        text = (sweep.path / file).read_text()
        assert "A against B" in text and "A is ahead." in text and "shows" in text
        assert "val/acc, net=a: 0.8000 (n = 5)" in text and "difference +0.1" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "val/acc", "of": {"nett": "a"}, "above": 0.5}, "nett: not varied here; .* Did you mean net?"),
        ({"metric": "val/acc", "of": {"net": "z"}, "above": 0.5}, "net=z: must be one of a, b"),
        ({"metric": "val/acc", "of": {"net": "a"}}, "must have one of above, below, rises_with"),
        ({"metric": "accuracy", "of": {"net": "a"}, "above": 0.5}, "metric=accuracy: must be split/name"),
        ({"metric": "val/acc", "of": {"net": "a"}, "abov": 0.5}, "abov: must be one of .* Did you mean above?"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": 0.5, "by": "much"}, "by=much: must be a number"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": 0.5, "by": math.nan}, "by=nan: must be a number"),
        ({"metric": "val/acc", "of": {"best": True}, "above": {}}, "metric=val/acc: it chose {best: true}"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": []}, "must not be an empty list"),
        ({"metric": "diverged", "of": {"net": "a"}, "above": 0.5}, "is compared with that of other runs"),
        ({"metric": "test/acc", "rises_with": "val/acc", "by": 0.1}, "by: goes with above and below"),
        ({"metric": "val/acc", "rises_with": "val/acc"}, "must be another metric"),
        ({"metric": "test/acc", "of": {"net": "a"}, "above": 0.5, "at_epoch": 2}, "test/acc has no value by epoch"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": 0.5, "at_epoch": "end"}, "at_epoch=end: must be a number"),
        ({"metric": "val/acc", "until": {"val/acc": 0.5}, "above": 0.5}, "until: goes with metric=seconds"),
        ({"metric": "seconds", "until": {"test/acc": 0.5}, "above": 5}, "test/acc has no value by epoch"),
        ({"metric": "seconds", "until": {"val/margin": 0.5}, "above": 5}, "known whether more or less is better"),
        ({"metric": "seconds", "until": 0.5, "above": 5}, "until=0.5: must be a metric and its value"),
        ("val/acc > 0.5", "must be a mapping"),
    ],
)
def test_a_bad_rule_is_refused_before_the_first_job(rule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"study\.verdict\[0\]: .*{message}"):
        check_rules({"verdict": [rule]}, {"net": ["a", "b"]}, "val/acc")
