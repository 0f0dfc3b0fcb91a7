"""A deliberate mistake of each kind, and the shortest history that shows it: the rules of the machine, one after the other."""

from collections.abc import Callable

import pytest

from tests.histories.installation import Installation, graph
from tests.histories.world import URLS

SHORT, LONG = {"graph": graph(1, 0.0)}, {"graph": graph(1, 70.0)}
History = Callable[[Installation], None]


def plain(here: Installation) -> None:
    here.publish("cat", SHORT)
    here.drop(SHORT)
    here.work_on(4.0)


def torn_picture(here: Installation) -> None:
    here.a_run_will_fail(URLS[0], "file torn")
    here.drop(SHORT)
    here.work_on(4.0)


def killed_after_the_post(here: Installation) -> None:
    here.publish("cat", LONG)
    here.kill((1, "answered"), 0)


def killed_while_comfyui_draws(here: Installation) -> None:
    here.publish("cat", LONG)
    here.work_on(4.0)
    here.kill((1, ""), 0)


def killed_while_it_claims(here: Installation) -> None:
    here.work_on(4.0)
    here.drop(SHORT)
    here.kill((1, "unlink"), 0)


def killed_while_it_cancels(here: Installation) -> None:
    here.publish("cat", LONG)
    here.cancel("cat")
    here.work_on(4.0)


def taken_up_a_moment_later(here: Installation) -> None:
    here.a_post_will_fail(URLS[0], "taken up a moment later")
    here.publish("cat", SHORT)
    here.work_on(4.0)


def frozen_before(number: int, kind: str) -> History:
    def history(here: Installation) -> None:
        here.work_on(4.0)
        here.publish("cat", SHORT)
        here.freeze((number, kind), 0, is_taken_over=True)

    return history


FROZEN = [frozen_before(number, "rename") for number in range(1, 12)]
HISTORIES: dict[str, list[History]] = {
    "nothing_flushed": [plain],
    "files_not_flushed": [plain],
    "folders_not_flushed": [plain],
    "final_status_not_flushed": [plain],
    "journal_after_the_post": [killed_after_the_post],
    "status_before_objects": [plain],
    "decision_after_the_bucket": [plain],
    "claim_by_copy": [killed_while_it_claims],
    "no_fencing": FROZEN,
    "pen_left_to_the_dead": FROZEN,
    "check_then_write": FROZEN,
    "no_look_up_before_resubmitting": [killed_while_comfyui_draws],
    "no_quiet_time": [taken_up_a_moment_later],
    "mark_removed_before_the_decision": [killed_while_it_cancels],
    "outputs_not_verified": [torn_picture],
}


def play(histories: list[History], fault: str | None) -> None:
    for history in histories:
        here = type("Faulty", (Installation,), {"fault": fault})()
        try:
            here.begin(1)
            history(here)
            here.world.check()
        finally:
            here.teardown()


SAID = {
    "nothing_flushed": "the bytes are not flushed",
    "files_not_flushed": "the bytes are not flushed",
    "folders_not_flushed": "answered, and the name of",
    "final_status_not_flushed": "told of, and the name of",
    "journal_after_the_post": "sent, and the name of",
    "status_before_objects": "which is not there",
    "decision_after_the_bucket": "is not what was decided",
    "claim_by_copy": "lost or doubled",
    "no_fencing": "'event': 'bug'",
    "pen_left_to_the_dead": "cat was final, and changed",
    "check_then_write": "cat was final, and changed",
    "no_look_up_before_resubmitting": "cat was executed 2 times",
    "no_quiet_time": "cat was executed 2 times",
    "mark_removed_before_the_decision": "was removed before its end was decided",
    "outputs_not_verified": "this is not what was drawn for it",
}


@pytest.mark.parametrize("fault", HISTORIES)
def test_a_history_shows(fault: str) -> None:
    play(HISTORIES[fault], None)
    with pytest.raises(AssertionError, match=SAID[fault]):
        play(HISTORIES[fault], fault)
