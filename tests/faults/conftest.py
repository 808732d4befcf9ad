"""The table of docs/reliability.md: a test adds rows to it, and it is printed when the tests end."""

from collections.abc import Callable

import pytest

COLUMNS = ("fault", "tried", "lost", "left behind")


@pytest.fixture
def add_row(record_property) -> Callable[..., None]:
    """Add a row to the table: what was done, how often, and how often something was lost or left behind."""

    def add(fault: str, tried: int, lost: int, left_behind: int) -> None:
        record_property("reliability", (fault, tried, lost, left_behind))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("passed", [])
    rows = [row for report in reports for name, row in report.user_properties if name == "reliability"]
    if rows:
        terminalreporter.write_sep("=", "docs/reliability.md")
        for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
            terminalreporter.write_line(f"| {' | '.join(map(str, row))} |")
