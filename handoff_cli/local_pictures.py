"""A picture on this machine that a job needs: copied to where ComfyUI reads it."""

import base64
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handoff.durable import disk_errors
from handoff.failures import Failure, Reason
from handoff.folders import FOLDER_MODE, Folders
from handoff.pictures import Limits, Pictures
from handoff_cli.exits import Exit, Stopped


def find_local(reference: str) -> Path | None:
    """The local file that a parameter's text names; None where it is a reference that the watcher understands.

    A file here goes before one of that name in `input/`. Raises Stopped for a path that leads nowhere.
    """
    if "://" in reference or reference[:5].lower() == "data:":
        return None
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    is_name = "/" not in reference.removeprefix("uploads/")
    if is_name and not reference.startswith(("~", ".")):
        return None  # it lies in input/, or will soon: the watcher waits for it
    raise Stopped(
        Exit.USAGE, f"{reference}: there is no such file here. A name without a folder is looked for in input/."
    )


def upload(path: Path, folders: Folders) -> str:
    """Copies it to `uploads/<sha256>.<ext>` and returns that name. Raises Failure(BAD_PICTURE), Unavailable."""
    limit = Limits().bytes
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise Failure(Reason.BAD_PICTURE, picture=str(path), problem=error.strerror or str(error)) from None
    if len(content) > limit:
        raise Failure(Reason.BAD_PICTURE, picture=str(path), problem=f"it is larger than {limit} bytes")
    # as a data: URL it goes the way of every picture: decoded as proof, named by its content, published durably
    reference = f"data:image/any;base64,{base64.b64encode(content).decode()}"
    with _scratch(folders) as scratch:
        try:
            return Pictures(Path(folders.input), scratch).resolve(reference).name
        except Failure as failure:
            problem = failure.details.get("problem", failure.reason)
            raise Failure(failure.reason, picture=str(path), problem=problem) from None


@contextmanager
def _scratch(folders: Folders) -> Iterator[Path]:
    """On the same mount as `uploads/`. The watchers remove old folders of this name, should this process be killed."""
    path = Path(f"{folders.spool}/new-{secrets.token_hex(8)}")
    with disk_errors(str(path)):
        path.mkdir()
        os.chmod(path, FOLDER_MODE)
    try:
        yield path
    finally:
        path.rmdir()
