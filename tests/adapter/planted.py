"""`python -m tests.adapter.planted MISTAKE serve`: the adapter with a mistake in it, as the tests must notice it."""

import sys
import threading
from collections.abc import Callable
from typing import Any

from dify_adapter import submission
from handoff.folders import Folders
from handoff.spool import publisher
from handoff.spool.record import Record
from handoff_cli.main import main


def break_down() -> None:
    """Every submission meets a mistake of the program."""

    def submit(*_: Any, **__: Any) -> Any:
        raise RuntimeError("about /a/secret/path")

    vars(submission)["submit"] = submit


def answer_before_it_is_published() -> None:
    """The job goes into the inbox when the answer is out."""

    def publish_later(folders: Folders, record: Record) -> str:
        threading.Timer(0.5, publisher.publish, (folders, record)).start()
        return "new"

    vars(submission)["publish"] = publish_later


MISTAKES: dict[str, Callable[[], None]] = {
    function.__name__: function for function in (break_down, answer_before_it_is_published)
}

if __name__ == "__main__":
    MISTAKES[sys.argv.pop(1)]()
    sys.exit(main())
