"""`pytest --scenarios`: at the end, a table of production failures, the tests that name them, and how these ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
from scenario_table import table

# How fast the machine draws examples is nobody's behaviour.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


class ScenarioTable:
    """Follows a test run; prints the table after it."""

    def __init__(self) -> None:
        self._scenarios: dict[str, list[str]] = {}
        self._ended: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tests that were selected, with the scenarios they name."""
        for item in session.items:
            self._scenarios[item.nodeid] = [name for mark in item.iter_markers("scenario") for name in mark.args]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ends as its call does, unless it was skipped before or its set-up or clean-up failed."""
        if (report.when == "call" or report.outcome != "passed") and self._ended.get(report.nodeid) != "failed":
            self._ended[report.nodeid] = report.outcome

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table; a test that the run did not come to is `not run`."""
        terminalreporter.section("scenarios")
        for line in table(
            (scenario, node, self._ended.get(node, "not run"))
            for node, scenarios in self._scenarios.items()
            for scenario in scenarios
        ):
            terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--scenarios`."""
    parser.addoption("--scenarios", action="store_true", help="print which scenario is shown by which test, and how")


def pytest_configure(config: pytest.Config) -> None:
    """Follow the run if asked to."""
    if config.getoption("--scenarios"):
        config.pluginmanager.register(ScenarioTable(), "scenario-table")
