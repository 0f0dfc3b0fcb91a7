"""What the routes work with. Nothing in it says anything about a job: that is on the volume, or in the bucket."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from dify_adapter.changes import Changes
from dify_adapter.keyring import Keyring
from dify_adapter.limits import Limits
from dify_adapter.links import Links
from dify_adapter.metrics import Metrics
from dify_adapter.reader import Reader
from dify_adapter.uploads import Uploads
from handoff.folders import Folders
from handoff.settings import AdapterSettings
from workflows.catalogue import Catalogue


@dataclass(frozen=True, kw_only=True)
class Desk:
    settings: AdapterSettings
    folders: Folders
    catalogue: Catalogue
    reader: Reader
    changes: Changes
    keys: Keyring
    limits: Limits
    links: Links
    uploads: Uploads
    metrics: Metrics


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(desk_of)]
