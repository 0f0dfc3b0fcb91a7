"""Histories that once broke a promise, as short as they could be made."""

from tests.histories.installation import Installation, graph
from tests.histories.world import URLS


def test_a_takeover_on_a_full_disk_leaves_no_drop_behind() -> None:
    """The one that freezes has claimed a drop. All that the other one inherits it can move, and nothing of it flush."""
    here = Installation()
    try:
        here.begin(1)
        here.world.start(URLS[1])
        here.work_on(4.0)
        heir, frozen = here.world.watchers
        heir.frozen = True
        here.drop({"graph": graph(1, 0.0)})
        frozen.arm(1, "link", freeze=True)
        here.work_on(4.0)
        assert frozen.frozen
        heir.frozen = False
        here.the_disk_fills_or_empties()
        here.work_on(45.0)
        here.the_disk_fills_or_empties()
        here.work_on(45.0)
    finally:
        here.teardown()
