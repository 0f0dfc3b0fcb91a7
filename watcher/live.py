"""A job that this watcher has claimed, from the claim until its record is filed away. Owned by the decision thread."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

from handoff.spool.record import Record
from handoff.status import StatusDocument
from watcher.prompts import Prompt


class Phase(Enum):
    """What comes next. A phase is never stored: after a crash it follows from the record and from `status.json`."""

    PLAN = auto()  # an adapter published it: the template is still to be filled
    READY = auto()  # waits for its turn at ComfyUI
    SENT = auto()  # ComfyUI has it, or may have it
    COLLECT = auto()  # ComfyUI is done with it
    MIRROR = auto()  # `saving`: its outputs are on their way to the bucket
    CONCLUDE = auto()  # its end is known and is being published


@dataclass(kw_only=True)
class Attempt:
    """What was seen of one attempt at ComfyUI. A new attempt has a new one, so nothing of the last is left in it. Times are monotonic."""

    prompt_id: str = ""
    sent_at: float = 0.0
    started_at: float | None = None
    quiet_at: float = 0.0
    """From when on a 404 means that ComfyUI never got it."""
    look_at: float = 0.0
    """When it is looked up next; of its timers only the one for this time counts."""
    published_at: float = 0.0
    start_told: bool = False
    """The published status tells since when it runs."""
    answered: bool = False
    """ComfyUI's answer to the POST was read: it took the prompt whole."""
    executed: bool = False
    refused: bool = False
    """The POST was answered 500."""
    timed_out: bool = False
    stops: int = 0
    """How often ComfyUI was asked to stop it."""
    done_nodes: set[str] = field(default_factory=set)


@dataclass(kw_only=True, eq=False)
class Live:
    record: Record
    document: StatusDocument
    phase: Phase
    busy: bool = False
    wanted: bool = False
    """Something happened while a task was under way: look again when it is back."""
    cancelled: bool = False
    arrived_at: float = 0.0
    """Monotonic: since when it is here, for pictures that an adapter's job waits for."""
    trouble: int = 0
    attempt: Attempt = field(default_factory=Attempt)
    """The one that ComfyUI has or is about to get."""
    resend: bool = False
    """That one provably did not arrive: it is sent again under the same number."""
    prompt: Prompt | None = None
    """What ComfyUI made of it, until that is collected."""
    decided: bool = False
    job_document: Literal["no", "under way", "put"] = "no"
    """How far `job.json` has got on its way into the bucket."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def token(self) -> str:
        return self.record.token

    @property
    def prompt_id(self) -> str:
        return self.attempt.prompt_id

    @property
    def alone(self) -> bool:
        """Suspected of bringing ComfyUI down: it runs without neighbours."""
        return self.record.ended("lost") > 0


class Jobs:
    """All live jobs of this watcher."""

    def __init__(self) -> None:
        self._by_token: dict[str, Live] = {}
        self._by_id: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._by_token.values()))

    def __contains__(self, token: str) -> bool:
        return token in self._by_token

    def get(self, token: str) -> Live | None:
        return self._by_token.get(token)

    def find(self, id: str) -> Live | None:
        return self._by_id.get(id)

    def add(self, live: Live) -> None:
        self._by_token[live.token] = self._by_id[live.id] = live

    def remove(self, live: Live) -> None:
        self._by_token.pop(live.token, None)
        self._by_id.pop(live.id, None)
