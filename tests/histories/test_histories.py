"""Any order of what may happen to an installation: see the rules."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import SOAK
from tests.figures import Note
from tests.histories.installation import COUNTS, Installation

EVENTS = (
    "jobs", "kills", "freezes", "takeovers", "cancels", "retries", "restarts", "comfyui_outages", "failing_posts",
    "failing_runs", "bucket_failures", "full_disks", "clock_jumps",
)  # fmt: skip
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
    note(**COUNTS)
    assert COUNTS["examples"] >= EXAMPLES
    assert [what for what in EVENTS if not COUNTS[what]] == []
