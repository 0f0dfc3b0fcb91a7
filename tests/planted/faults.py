"""Deliberate mistakes, one of each kind: a test that claims to find such a one is shown to find it.

Each function breaks one rule of docs/protocol.md in the real modules, which know nothing of it. `plant` does so in this
process; `python -m tests.planted FAULT watch` runs the real watcher with it.

Some rules are about what lies between two steps. There the planted code says that it has come so far, and waits to be
let on, so that a kill or a freeze surely falls in between: see WINDOW.
"""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from handoff import durable, state, timestamps
from handoff.failures import Failure
from handoff.folders import Folders
from handoff.graph import Graph
from handoff.job import prompt_id
from handoff.spool import reservations, takeover
from handoff.spool.drops import Claim, Drops
from handoff.spool.journal import Journal
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Seat
from handoff.status import StatusDocument
from watcher import collector, execution
from watcher.comfyui import ComfyUI, NotArrived, Unclear
from watcher.delivery import Delivery
from watcher.execution import Execution
from watcher.live import Live, Phase
from watcher.media import Media
from watcher.publication import Publication
from watcher.submission import Sent, Submission

WINDOW = "PLANTED_WINDOW"
"""Names the folder in which a process leaves a mark while it stands between two steps. Where it is not set nobody waits."""

Fault = Callable[[pytest.MonkeyPatch], None]


def _stand_between() -> None:
    try:
        mark = f"{os.environ[WINDOW]}/{os.getpid()}-{threading.get_ident()}"
        os.close(os.open(mark, os.O_CREAT))
    except (KeyError, FileNotFoundError):
        return
    while os.path.lexists(mark):
        time.sleep(0.01)


def nothing_flushed(patch: pytest.MonkeyPatch) -> None:
    """No fsync at all."""
    patch.setattr(os, "fsync", lambda _: None)


def files_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """A file gets its public name while its bytes may still be in memory."""
    write_file = durable.write_file
    patch.setattr(durable, "write_file", lambda path, data, **_: write_file(path, data, durable=False))


def folders_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """The bytes of a file are on the disk and its name is not."""
    for module in (durable, takeover):
        patch.setattr(module, "sync_folder", lambda _: None)


def final_status_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """The decision is made with the writes that suffice for `running`."""
    publish_status = Journal.publish_status

    def publish(self: Journal, document: StatusDocument, token: str, *, durable_write: bool) -> None:
        publish_status(self, document, token, durable_write=durable_write and not document.done)

    patch.setattr(Journal, "publish_status", publish)


def status_written_in_place(patch: pytest.MonkeyPatch) -> None:
    """A reader may come upon half a status."""

    def publish(self: Journal, id: str, name: str, data: bytes, token: str, **_: bool) -> None:
        self._make_job_folder(id)
        with open(f"{self._folders.job(id)}/{name}", "wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            _stand_between()
            file.write(data[len(data) // 2 :])
            os.fsync(file.fileno())

    patch.setattr(Journal, "_publish", publish)


def journal_after_the_post(patch: pytest.MonkeyPatch) -> None:
    """Killed in between, nobody knows of the attempt."""
    write, post = Journal.write, Submission._post
    postponed: dict[str, Record] = {}

    def write_later(_: Journal, record: Record) -> None:
        postponed[record.token] = record

    def post_first(self: Submission, record: Record, document: StatusDocument, graph: Graph) -> Sent:
        sent = post(self, record, document, graph)
        if (late := postponed.pop(record.token, None)) is not None:
            _stand_between()
            write(self.journal, late)
        return sent

    patch.setattr(Journal, "write", write_later)
    patch.setattr(Submission, "_post", post_first)


def status_before_objects(patch: pytest.MonkeyPatch) -> None:
    """The decision and the bucket's `status.json` come first; what they name follows."""

    def conclude_first(self: Publication, record: Record, way: Any) -> None:
        delivery: Delivery = self._delivery
        way.document, way.ended = way.document.finish(state.Event.MIRRORED, timestamps.now()), True
        delivery.decide(record, way.document)
        way.decided = True
        data = way.document.to_bytes()
        delivery.store.put_bytes(
            f"{record.id}/status.json", data, media_type="application/json", cache_control="no-store"
        )
        _stand_between()
        delivery.mirror(record, way.document, job_document_put=False)
        delivery.conclude(record, way.document, job_document_put=True)

    patch.setattr(Publication, "_mirror_and_conclude", conclude_first)


def decision_after_the_bucket(patch: pytest.MonkeyPatch) -> None:
    """The bucket hears of the end before it is decided: a watcher that is fenced in between has spoken for the next."""
    decide = Delivery.decide

    def put_first(self: Delivery, record: Record, document: StatusDocument) -> None:
        data = document.to_bytes()
        self.store.put_bytes(f"{record.id}/status.json", data, media_type="application/json", cache_control="no-store")
        _stand_between()
        decide(self, record, document)

    patch.setattr(Delivery, "decide", put_first)


def claim_by_copy(patch: pytest.MonkeyPatch) -> None:
    """Two watchers copy the same file before one of them removes it."""

    def copy(self: Drops, name: str) -> Claim | None:
        dropped = f"{self._folders.input}/{name}"
        stamp = f"{timestamps.now():%Y%m%dT%H%M%S%f}-{secrets.token_hex(8)}"
        claim = Claim(stamp=stamp, name=name)
        try:
            shutil.copyfile(dropped, self.path(claim))
        except FileNotFoundError:
            return None
        _stand_between()
        with suppress(FileNotFoundError):
            os.unlink(dropped)
        return claim

    patch.setattr(Drops, "claim", copy)


def claim_removed_before_it_is_out(patch: pytest.MonkeyPatch) -> None:
    """The dropped file is gone before the job made of it lies in the inbox."""
    write_made = Drops._write_made

    def remove_first(self: Drops, record: Record, made: str) -> None:
        for claim in self.claims():
            if claim.token == record.token:
                os.unlink(self.path(claim))
        _stand_between()
        write_made(self, record, made)

    patch.setattr(Drops, "_write_made", remove_first)


def id_looked_up_only(patch: pytest.MonkeyPatch) -> None:
    """Whether an id is free is asked, and answered by writing it down a moment later."""

    def look_then_write(folders: Folders, source: str, *, id: str, token: str) -> bool:
        holder = reservations.find(folders, id)
        if holder is not None:
            return holder.token == token
        _stand_between()
        path = folders.reservation(id)
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.link(source, path)
        return True

    patch.setattr(reservations, "reserve", look_then_write)


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """A watcher whose folders are gone makes them anew and goes on."""

    @contextmanager
    def power(self: Seat) -> Iterator[None]:
        for folder in (self.path, self.pen):
            os.makedirs(folder, exist_ok=True)
        yield

    patch.setattr(Seat, "power", power)
    patch.setattr(Seat, "held", lambda _: True)


def pen_left_to_the_dead(patch: pytest.MonkeyPatch) -> None:
    """A takeover takes the power over `input/` only: what was frozen may still publish a status."""
    replace = durable.replace

    def replace_late(temporary: str, target: str, *, durable: bool = True) -> None:
        if target.endswith("status.json"):
            _stand_between()
        replace(temporary, target, durable=durable)

    patch.setattr(durable, "replace", replace_late)
    patch.setattr(takeover, "_remove_pen", lambda _seat, _wid: None)


def check_then_write(patch: pytest.MonkeyPatch) -> None:
    """Looks whether it was fenced off, then publishes from a folder that nobody takes away."""

    def publish(self: Journal, id: str, name: str, data: bytes, token: str, **_: bool) -> None:
        if not self._seat.held():
            with self._seat.power():
                raise FileNotFoundError(self._seat.pen)
        self._make_job_folder(id)
        scratch = f"{self._folders.job(id)}/.{self._seat.wid}-{name}"
        durable.write_file(scratch, data)
        if name == "status.json":
            _stand_between()
        durable.replace(scratch, f"{self._folders.job(id)}/{name}")

    patch.setattr(Journal, "_publish", publish)


def no_look_up_before_resubmitting(patch: pytest.MonkeyPatch) -> None:
    """After a restart an attempt counts as lost, whatever ComfyUI has."""

    def resume(_: Execution, live: Live, _published: StatusDocument | None) -> None:
        live.phase = Phase.READY

    patch.setattr(Execution, "resume", resume)


def unclear_post_sent_again(patch: pytest.MonkeyPatch) -> None:
    """An answer that was lost is taken for a request that was lost."""
    submit = ComfyUI.submit

    def give_up(self: ComfyUI, *args: Any, **named: Any) -> None:
        try:
            submit(self, *args, **named)
        except Unclear as error:
            raise NotArrived(str(error)) from error

    patch.setattr(ComfyUI, "submit", give_up)


def no_quiet_time(patch: pytest.MonkeyPatch) -> None:
    """A prompt that ComfyUI has not got yet counts as lost, although its POST may be under way."""
    patch.setattr(execution, "QUIET_S", 0.0)


def attempt_number_reused(patch: pytest.MonkeyPatch) -> None:
    """A lost attempt is sent again under its own number, into its own folder."""
    next_attempt = Record.next_attempt

    def same_attempt(self: Record, *, server: str, at: str, plan: Plan) -> Record:
        return next_attempt(self.evolve(attempt=0), server=server, at=at, plan=plan)

    patch.setattr(Record, "next_attempt", same_attempt)
    patch.setattr(execution, "prompt_id", lambda token, _: prompt_id(token, 1))


def mark_removed_before_the_decision(patch: pytest.MonkeyPatch) -> None:
    """Killed in between, nobody knows that the job was to be cancelled."""
    decide = Delivery.decide

    def remove_first(self: Delivery, record: Record, document: StatusDocument) -> None:
        self.journal.remove_mark(record.id)
        _stand_between()
        decide(self, record, document)

    patch.setattr(Delivery, "decide", remove_first)


def outputs_not_verified(patch: pytest.MonkeyPatch) -> None:
    """ComfyUI said success, and that is believed."""

    def believe(*_: Any, **__: Any) -> Media:
        return Media(kind="image", media_type="image/png", width=32, height=24)

    patch.setattr(collector, "examine", believe)


def bad_file_deleted(patch: pytest.MonkeyPatch) -> None:
    """Who dropped a file that is no job finds neither it nor a reason."""

    def delete(self: Drops, claim: Claim, _failure: Failure, _language: str) -> str:
        os.unlink(self.path(claim))
        return claim.name

    patch.setattr(Drops, "reject", delete)


def id_drawn_anew(patch: pytest.MonkeyPatch) -> None:
    """After a kill a drop gets another id than the one that it has reserved already."""
    settle = Drops.settle

    def find_id(self: Drops, claim: Claim, id: str | None, _sha256: str) -> str:
        return id or f"{claim.name.partition('.')[0]}-{self._seat.wid}"

    def settle_late(self: Drops, claims: list[Claim]) -> None:
        _stand_between()
        settle(self, claims)

    patch.setattr(Drops, "_find_id", find_id)
    patch.setattr(Drops, "settle", settle_late)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        nothing_flushed,
        files_not_flushed,
        folders_not_flushed,
        final_status_not_flushed,
        status_written_in_place,
        journal_after_the_post,
        status_before_objects,
        decision_after_the_bucket,
        claim_by_copy,
        claim_removed_before_it_is_out,
        id_looked_up_only,
        no_fencing,
        pen_left_to_the_dead,
        check_then_write,
        no_look_up_before_resubmitting,
        unclear_post_sent_again,
        no_quiet_time,
        attempt_number_reused,
        mark_removed_before_the_decision,
        outputs_not_verified,
        bad_file_deleted,
        id_drawn_anew,
    )
}


def plant(name: str, patch: pytest.MonkeyPatch) -> None:
    """Raises KeyError for a fault that is none."""
    FAULTS[name](patch)
