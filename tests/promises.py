"""A table at the end of a test run: the README's promises, and how many cases of each were tried and held.

A module names its promise as `PROMISE`; a test that tries several cases says so with `record_property("cases", n)`.
"""

from collections import Counter

import pytest
from _pytest.terminal import TerminalReporter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if promise := getattr(getattr(item, "module", None), "PROMISE", None):
            item.user_properties.append(("promise", promise))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "promise" in properties:
                cases = properties.get("cases", 1)
                tried[properties["promise"]] += cases
                held[properties["promise"]] += cases if outcome == "passed" else 0
    if tried:
        terminalreporter.section("promises")
        for promise in sorted(tried, key=lambda text: int(text.split(".")[0])):
            terminalreporter.write_line(f"{promise:<60} {held[promise]:>5} of {tried[promise]:>5} cases held")
