"""Who has an id. `ids/<id>` is made by link(2) and never replaced while the job lives, so looking once is enough."""

import os
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from handoff.documents import OWN_FAULTS
from handoff.durable import disk_errors, read_file
from handoff.failures import NotPermitted, Permanent
from handoff.folders import Folders

_LIMIT = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """`token` is None where only the job's remains in `output/` tell of it (the input volume was replaced)."""

    token: str | None
    sha256: str | None
    finished: bool = False
    """A tombstone: its job ended long ago. (A finished job that is still kept is told by its `status.json`.)"""


class _Holder(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    token: str | None = None
    sha256: str | None = None
    finished_at: str | None = None


def find(folders: Folders, id: str) -> Reservation | None:
    """The holder of an id: a live job, a finished one or a tombstone; None where the id is free.

    A folder `output/<id>/` without a reservation counts as taken, whoever made it: publishing into it could replace
    somebody's files. Raises DiskUnavailable.
    """
    for path in (folders.reservation(id), folders.job_document(id)):
        try:
            with disk_errors(path):
                holder = _Holder.model_validate_json(read_file(path, _LIMIT))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (Permanent, ValidationError, NotPermitted):
            return Reservation(token=None, sha256=None)
        except OSError as error:
            if error.errno in OWN_FAULTS:
                return Reservation(token=None, sha256=None)
            raise
        known = path == folders.reservation(id)
        return Reservation(
            token=holder.token if known else None, sha256=holder.sha256, finished=holder.finished_at is not None
        )
    if os.path.lexists(folders.job(id)):
        return Reservation(token=None, sha256=None)
    return None


def reserve(folders: Folders, source: str, *, id: str, token: str) -> bool:
    """Links `source` to `ids/<id>`. False: another has it. Raises FileNotFoundError: `source` is gone (swept, or fenced off).

    A network file system may repeat a request whose answer was lost and then report an error for its own success;
    therefore the token in the file decides, not the error alone.
    """
    try:
        os.link(source, folders.reservation(id), follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        holder = find(folders, id)
        if holder is None:
            raise
        return holder.token == token
    return True
