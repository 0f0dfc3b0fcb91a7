"""How a command ends."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses; public, since scripts depend on them."""

    DONE = 0
    JOB_FAILED = 1  # the job failed, expired, was cancelled or rejected; or a check found something
    USAGE = 2  # the command line or a setting is wrong
    UNREACHABLE = 3  # ComfyUI, the bucket, the volume or a watcher
    UNKNOWN_ID = 4
    WAIT_OVER = 5
    INTERRUPTED = 130


class Stopped(Exception):  # noqa: N818 - it is the command that ends, for a reason that its user can mend
    """Ends the command with this text on standard error and this exit status."""

    def __init__(self, status: Exit, text: str) -> None:
        super().__init__(text)
        self.status = status


def unknown_id(id: str) -> Stopped:
    return Stopped(
        Exit.UNKNOWN_ID,
        f"No job has the id {id}. `handoff list` shows the ids; the id of a dropped file is made from its name and the"
        " time, and a file that still lies in input/ has none yet. One that was refused lies in input/rejected/ beside"
        " its reason.",
    )
