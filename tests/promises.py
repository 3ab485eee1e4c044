"""A table at the end of a test run: the README's promises, and how many cases of each were tried and held.

A module names its promise as `PROMISE`. A test says with `@pytest.mark.counted("kill points", n)` that it tries n cases
of a kind that has a line of its own; a test that only knows n when it runs says `record_property("cases", n)`.
"""

from collections import defaultdict

import pytest
from _pytest.terminal import TerminalReporter

Counts = dict[str, list[int]]  # by kind: held, tried


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "counted(kind, cases=1): a line in the table of promises")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if promise := getattr(getattr(item, "module", None), "PROMISE", None):
            item.user_properties.append(("promise", promise))
            if marker := item.get_closest_marker("counted"):
                kind, cases = (*marker.args, 1)[:2]
                item.user_properties += [("kind", kind), ("cases", cases)]


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    promises: defaultdict[str, Counts] = defaultdict(dict)
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "promise" not in properties:
                continue
            kinds = promises[properties["promise"]]
            held, tried = kinds.setdefault(properties.get("kind", "other tests"), [0, 0])
            cases = properties.get("cases", 1)
            kinds[properties.get("kind", "other tests")] = [held + cases * (outcome == "passed"), tried + cases]
    if promises:
        terminalreporter.section("promises")
    for promise in sorted(promises, key=lambda text: int(text.split(".")[0])):
        kinds = promises[promise]
        held, tried = (sum(counts) for counts in zip(*kinds.values(), strict=True))
        terminalreporter.write_line(f"{promise:<66} {held:>5} of {tried:>5} cases held")
        for kind in sorted(kinds.keys() - {"other tests"}):
            held, tried = kinds[kind]
            terminalreporter.write_line(f"      {kind:<60} {held:>5} of {tried:>5}")
