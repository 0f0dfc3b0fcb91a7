"""What a power loss could take away now: names and bytes that were not flushed. A kill takes nothing, and changes nothing
here: what a killed process left unflushed its successor must flush before anything rests on it.
"""

import os
from collections.abc import Callable
from contextlib import suppress

from handoff.folders import Folders
from handoff.job import submission_token
from tests.spool.actors import Call

Name = tuple[int, str]
"""A folder's inode and a name in it."""


class Flushes:
    def __init__(self, folders: Folders, complain: Callable[[str], None]) -> None:
        self._folders = folders
        self._complain = complain
        self._whole: set[int] = set()
        """Inodes of files whose bytes are flushed."""
        self._open_names: set[Name] = set()
        """Names that are not."""

    def note(self, call: Call) -> None:
        """A call that was just made."""
        match call.name:
            case "open" if call.args[1] & os.O_WRONLY and isinstance(call.args[0], str):
                with suppress(FileNotFoundError):
                    self._whole.discard(os.stat(call.args[0]).st_ino)
            case "fsync" if call.inode is not None:
                self._whole.add(call.inode)
                self._open_names = {name for name in self._open_names if name[0] != call.inode}
            case "rename" | "link" if isinstance(call.args[1], str):
                self._check_bytes(call)
                self._add(call.args[1])
            case "mkdir":
                self._add(call.args[0])
            case "unlink" if "/c-" in str(call.args[0]):
                self._check_claim(os.path.basename(call.args[0]))

    def _add(self, path: str) -> None:
        folder, name = os.path.split(path)
        with suppress(FileNotFoundError):
            self._open_names.add((os.stat(folder).st_ino, name))

    def _check_bytes(self, call: Call) -> None:
        """Before a file gets a name that something rests on."""
        folder, name = os.path.split(call.args[1])
        rests = folder in (self._folders.ids, self._folders.inbox) or name.startswith(("r-", "b-"))
        if rests and not name.startswith(".") and call.inode not in self._whole:
            self._complain(f"{call}: the bytes are not flushed")

    def _check_claim(self, name: str) -> None:
        """A drop may go only when the job made of it cannot be lost."""
        token = submission_token(name.removeprefix("c-").partition("~")[0], 1)
        for folder in (self._folders.inbox, self._folders.ids):
            inode = os.stat(folder).st_ino
            for _, open_name in (found for found in self._open_names if found[0] == inode):
                if token in open_name or folder == self._folders.ids:
                    self._complain(f"{name} is removed, and {open_name} in {folder} is not flushed")

    def check_answer(self, id: str) -> None:
        """An adapter answers."""
        self._check_name(self._folders.reservation(id), "answered")

    def check_post(self, id: str, token: str, seat: str) -> None:
        self._check_name(self._folders.reservation(id), "sent")
        self._check_name(f"{seat}/r-{token}", "sent")

    def check_status(self, id: str) -> None:
        """The bucket gets the final status."""
        self._check_name(self._folders.reservation(id), "told of")
        self._check_name(self._folders.status(id), "told of")
        self._check_name(self._folders.job(id), "told of")
        with suppress(FileNotFoundError):
            if os.stat(self._folders.status(id)).st_ino not in self._whole:
                self._complain(f"{id} is told of, and its final status is not flushed")

    def _check_name(self, path: str, what: str) -> None:
        folder, name = os.path.split(path)
        with suppress(FileNotFoundError):
            if (os.stat(folder).st_ino, name) in self._open_names:
                self._complain(f"{what}, and the name of {path} is not flushed")
