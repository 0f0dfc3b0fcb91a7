"""Any order of what may happen to an installation: see the rules."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import SOAK
from tests.figures import Note
from tests.histories.installation import COUNTS, Installation

EXAMPLES, RULES = (2000, 50) if SOAK else (50, 30)


@pytest.mark.timeout(1500)
def test_any_history_keeps_the_promises(note: Note) -> None:
    COUNTS.clear()
    chosen = settings(
        max_examples=EXAMPLES,
        stateful_step_count=RULES,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    run_state_machine_as_test(Installation, settings=chosen)
    note(**COUNTS, violations=0)
    assert COUNTS["examples"] >= EXAMPLES
    assert min(COUNTS[what] for what in ("kills", "freezes", "restarts", "takeovers", "jobs")) > 0
