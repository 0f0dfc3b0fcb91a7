"""What a campaign counted and measured, shown at the end of the run: the figures of docs/promises.md come from here."""

from collections.abc import Callable

import pytest

Note = Callable[..., None]

_NAME = "figure"


@pytest.fixture
def note(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Note:
    """`note(kills=12, lost=0)`: figures of this test, in the order in which they are given."""

    def write(**figures: object) -> None:
        shown = "  ".join(f"{name}={_show(value)}" for name, value in figures.items())
        record_property(_NAME, f"{request.node.nodeid.partition('::')[2]}  {shown}")

    return write


def _show(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = [str(value) for report in reports for name, value in report.user_properties if name == _NAME]
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)
