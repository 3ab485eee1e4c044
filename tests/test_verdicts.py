"""A study's rules, each on a sweep made by hand where the answer is known."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import lithydra
from conftest import CONF
from lithydra.errors import ConfigError
from lithydra.report import report_sweep
from lithydra.study_rules import check_rules
from lithydra.sweep_dir import SweepDir
from lithydra.sweep_plan import Request
from lithydra.sweep_results import curves
from lithydra.verdicts import judge, overall
from sweeps import write_sweep

SEEDS = ["0", "1", "2"]
OBJECTIVE = {"metric": "val/acc", "mode": "max"}
MEANS = {"a": 0.8, "b": 0.7, "c": 0.795}  # each ± 0.01 over the seeds


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    axes = {"net": [*MEANS, "d"], "seed": SEEDS}
    states = {f"net=d,seed={seed}": "diverged" for seed in SEEDS}
    return write_sweep(
        tmp_path / "s", axes, lambda p: MEANS.get(p["net"], 0.1) + 0.01 * (int(p["seed"]) - 1), states=states
    )


def verdicts(sweep: SweepDir, *rules: dict[str, Any]) -> list[str]:
    frame = lithydra.results(sweep.path)
    outcomes = judge({"verdict": list(rules)}, frame, curves(frame, []), ["net", "seed"], OBJECTIVE)
    return [outcome.verdict for outcome in outcomes]


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
        ({"of": {"net": "a"}, "above": {"net": "d"}}, "unclear"),  # none of it finished
        ({"of": {"net": "a"}, "above": {}}, "shows"),  # all the others
        ({"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}, "at_epoch": 1}, "shows"),
        ({"metric": "gap", "of": {"net": "a"}, "below": 0.2}, "shows"),
        ({"metric": "gap", "of": {"net": "a"}, "above": 0.4, "at_epoch": 1}, "shows"),
        ({"metric": "gap", "of": {"net": "a"}, "below": 0.2, "at_epoch": "last"}, "shows"),
        ({"metric": "layers/weight_std", "of": {"net": "a"}, "above": 0.1, "at_epoch": 1}, "unclear"),  # not measured
        ({"metric": "diverged", "of": {"net": "d"}, "above": {"net": "a"}, "by": 0.5}, "shows"),
        ({"metric": "seconds", "of": {"net": "a"}, "below": 10}, "shows"),
        ({"of": {"best": True}, "above": {}, "by": 0.01}, "shows"),  # 0.81, of all runs
        ({"of": {"best": True}, "above": {"net": "a"}, "by": 0.03}, "does not show"),
        ({"metric": "optimism", "of": {"best": True}, "above": 0.6, "by": 0}, "shows"),  # 0.81 - 0.19
    ],
)
def test_a_comparison_goes_by_the_seeds_spread(sweep: SweepDir, rule: dict[str, Any], verdict: str) -> None:
    assert verdicts(sweep, {"metric": "val/acc", **rule}) == [verdict]


def test_a_list_is_compared_with_each(sweep: SweepDir) -> None:
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": [{"net": "b"}, {"net": "c"}]}
    assert verdicts(sweep, rule) == ["shows", "unclear"]


def test_all_but_those_in_question_are_called_the_others(sweep: SweepDir) -> None:
    frame = lithydra.results(sweep.path)
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": {}}
    (outcome,) = judge({"verdict": [rule]}, frame, curves(frame, []), ["net", "seed"], OBJECTIVE)
    assert "all others: 0.7475 (n = 6)" in outcome.figures  # b and c; d has no finished run


def test_one_seed_leaves_the_spread_unknown(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "s", {"net": ["a", "b"]}, lambda p: MEANS[p["net"]])
    rule = {"metric": "val/acc", "of": {"net": "a"}, "above": {"net": "b"}}
    assert verdicts(sweep, rule, {**rule, "by": 0.05}) == ["unclear", "shows"]


def test_the_whole_verdict_needs_every_rule(sweep: SweepDir) -> None:
    def whole(*pairs: str) -> str:
        frame = lithydra.results(sweep.path)
        rules = [{"metric": "val/acc", "of": {"net": x}, "above": {"net": y}} for x, y in pairs]
        return overall(judge({"verdict": rules}, frame, curves(frame, []), ["net", "seed"], OBJECTIVE))

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
        lambda p: MEANS[p["net"]] + 0.01 * int(p["seed"]),
        study=study,
    )
    report_sweep(sweep.path)
    for file in ("report.html", "report.md"):
        text = (sweep.path / file).read_text()
        assert "A against B" in text and "A is ahead." in text and "shows" in text
        assert "val/acc, net=a: 0.8100 (n = 3)" in text and "difference +0.1" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"metric": "val/acc", "of": {"nett": "a"}, "above": 0.5}, "nett: not varied here; .* Did you mean net?"),
        ({"metric": "val/acc", "of": {"net": "z"}, "above": 0.5}, "net=z: must be one of a, b"),
        ({"metric": "val/acc", "of": {"net": "a"}}, "must have one of above, below"),
        ({"metric": "accuracy", "of": {"net": "a"}, "above": 0.5}, "metric=accuracy: must be split/name"),
        ({"metric": "val/acc", "of": {"net": "a"}, "abov": 0.5}, "abov: must be one of .* Did you mean above?"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": 0.5, "by": "much"}, "by=much: must be spread or a number"),
        ({"metric": "test/acc", "of": {"net": "a"}, "above": 0.5, "at_epoch": 2}, "test/acc has no value by epoch"),
        ({"metric": "val/acc", "of": {"net": "a"}, "above": 0.5, "at_epoch": "end"}, "at_epoch=end: must be a number"),
        ("val/acc > 0.5", "must be a mapping"),
    ],
)
def test_a_bad_rule_is_refused_before_the_first_job(rule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"study\.verdict\[0\]: .*{message}"):
        check_rules({"verdict": [rule]}, {"net": ["a", "b"]})


def test_every_study_in_conf_has_rules_that_fit_its_axes() -> None:
    for path in (CONF / "study").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        params = content.get("hydra", {}).get("sweeper", {}).get("params", {})
        search = {"override /hydra/sweeper": "optuna"} in content.get("defaults", [])
        parsed = {} if search else Request.parse(None, params, []).axes  # pyright: ignore[reportArgumentType]
        axes = {key: parsed.get(key, []) for key in params}
        check_rules(content["study"], axes)
        assert content["study"]["title"] and content["study"]["expectation"]
