"""Where everything lies on the shared volume. Names only; nothing here touches a disk, except `make`.

`input/` and `output/` are ComfyUI's own folders and may be two mounts: nothing is ever renamed or linked from one to
the other.
"""

import errno
import os
from dataclasses import dataclass

FOLDER_MODE = 0o2775  # set-gid and group-writable: ComfyUI, watcher and adapter may run as different users of one group


@dataclass(frozen=True)
class Folders:
    input: str
    output: str

    @property
    def uploads(self) -> str:
        return f"{self.input}/uploads"

    @property
    def rejected(self) -> str:
        return f"{self.input}/rejected"

    @property
    def spool(self) -> str:
        return f"{self.input}/.handoff"

    @property
    def inbox(self) -> str:
        return f"{self.spool}/inbox"

    @property
    def ids(self) -> str:
        return f"{self.spool}/ids"

    @property
    def tmp(self) -> str:
        return f"{self.spool}/tmp"  # noqa: S108 - below input/, not the system's

    @property
    def done(self) -> str:
        return f"{self.spool}/done"

    @property
    def paused(self) -> str:
        """While this file exists no watcher claims a job."""
        return f"{self.spool}/paused"

    @property
    def pens(self) -> str:
        return f"{self.output}/.handoff"

    @property
    def work(self) -> str:
        return f"{self.pens}/work"

    def watcher(self, wid: str) -> str:
        return f"{self.spool}/w-{wid}"

    def pen(self, wid: str) -> str:
        return f"{self.pens}/w-{wid}"

    def reservation(self, id: str) -> str:
        return f"{self.ids}/{id}"

    def cancel_mark(self, id: str) -> str:
        return f"{self.input}/{id}.cancel"

    def job(self, id: str) -> str:
        return f"{self.output}/{id}"

    def status(self, id: str) -> str:
        return f"{self.output}/{id}/status.json"

    def job_document(self, id: str) -> str:
        return f"{self.output}/{id}/job.json"

    def make(self) -> None:
        """Makes every folder below `input/` and `output/` that the protocol needs; those two must exist.

        A link in the place of one raises OSError (ELOOP): what is written and cleared away there would lie elsewhere.
        """
        self.make_input()
        _make(self.pens, self.work)

    def make_input(self) -> None:
        """Those below `input/`: all that an adapter needs, which only reads `output/`."""
        _make(self.spool, self.uploads, self.rejected, self.inbox, self.ids, self.tmp, self.done)


def _make(*paths: str) -> None:
    for path in paths:
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "is a symbolic link", path)
        try:
            os.mkdir(path)  # never `input/` or `output/` themselves: the volume may not be mounted just now
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        try:
            os.chmod(path, FOLDER_MODE)
        except PermissionError:  # another user made it: the modes are that user's affair, and doctor looks at them
            continue


def work_folder(token: str, attempt: int) -> str:
    """Relative to `output/`: where ComfyUI writes this attempt, as the start of every filename_prefix."""
    return f".handoff/work/{token}-{attempt}"
