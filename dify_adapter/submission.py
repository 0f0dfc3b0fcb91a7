"""From the fields of a request to a job in the inbox. Blocks; everything that can be refused is, before it gets there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dify_adapter import bodies
from dify_adapter.desk import Desk
from dify_adapter.keys import Key, Scope
from dify_adapter.reception import File
from dify_adapter.refusal import Refused
from handoff import timestamps
from handoff.decode import JsonObject, JsonValue, excerpt
from handoff.failures import Failure, Permanent, Reason, Unavailable
from handoff.job import Job, is_id, parse_job
from handoff.log import get as _log
from handoff.spool import listing, reservations
from handoff.spool.publisher import make_record, make_retry, publish
from handoff.spool.record import Record, Tombstone
from workflows.catalogue import find_problems
from workflows.parameter import Kind
from workflows.template import Template

_PICTURES = frozenset({Kind.IMAGE, Kind.MASK})
_HELD_PLACE = "uploads/the part of a form"


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """`replay`: the job was known already; nothing was submitted again."""

    record: Record
    replay: bool


def submit(
    desk: Desk,
    caller: Key,
    *,
    id: str | None,
    fields: JsonObject,
    files: Sequence[File] = (),
    workflow: str | None = None,
    idempotency_key: str | None = None,
) -> Submitted:
    """`id` and `workflow` are what the address says. When this returns, the job is on the disk, whatever is killed.

    Raises Refused, Failure, Unavailable.
    """
    allow(caller, Scope.SUBMIT, "this key may only read")
    id = _choose_id(id, fields, caller, idempotency_key)
    if workflow is not None:
        fields = _address_workflow(fields, workflow)
    template = None
    if bodies.is_graph(fields):
        allow(caller, Scope.GRAPH, "this key may use the named workflows only, and no graphs of its own")
        if files:
            raise Failure(Reason.BAD_BODY, problem="files belong to the picture parameters of a named workflow")
    else:
        template = desk.catalogue.get(bodies.find_workflow(fields, desk.settings.default_workflow))
    names = bodies.name_files((file.name for file in files), fields)
    placed = fields | dict.fromkeys(names, _HELD_PLACE)
    job = bodies.make_job(placed, id=id, template=template, default_workflow=desk.settings.default_workflow)
    if problems := find_problems(job, desk.catalogue):
        raise Refused(*problems)
    if template is not None:
        job = _keep_pictures(desk, job, template, dict(zip(names, files, strict=True)))
    return _publish(desk, caller, make_record(job, desk.folders, owner=caller.owner))


def retry(desk: Desk, caller: Key, id: str) -> Submitted:
    """The same job under the next id. Raises Refused, Failure, Unavailable."""
    allow(caller, Scope.SUBMIT, "this key may only read")
    sight = desk.reader.find(id) if is_id(id) else None
    record = listing.find_record(desk.folders, id)
    owner = record.owner if record is not None else getattr(sight.document, "owner", None) if sight else None
    if sight is None or (owner is not None and not caller.sees(owner)):
        raise Failure(Reason.UNKNOWN_ID, id=excerpt(id))
    if isinstance(sight.document, Tombstone) or record is None:
        raise Failure(Reason.NOT_RETRYABLE, id=id, problem="what it asked for was removed")
    if not sight.done:
        raise Failure(Reason.NOT_RETRYABLE, id=id, problem=f"it is not over but {sight.status}")
    if sight.document.ok:
        raise Failure(Reason.NOT_RETRYABLE, id=id, problem="it succeeded")
    again = make_retry(record, received_at=timestamps.to_text(timestamps.now()))
    return _publish(desk, caller, again)


def allow(caller: Key, scope: Scope, problem: str) -> None:
    """Raises Failure."""
    if not caller.may(scope):
        raise Failure(Reason.FORBIDDEN, problem=problem)


def check_id(id: str) -> None:
    """Raises Failure for what is no id, with the sentence that helps where Dify made it."""
    bodies.check_replaced("id", id)
    parse_job({"prompt": "", "id": id}, default_workflow="-")


def _choose_id(id: str | None, fields: JsonObject, caller: Key, idempotency_key: str | None) -> str | None:
    """The address's, the body's, or one that follows from the owner and the Idempotency-Key; None: one is drawn."""
    if id is not None:
        check_id(id)
        return id
    given: JsonValue = fields.get("id")
    if given not in (None, "") or not idempotency_key:
        return None
    bodies.check_replaced("Idempotency-Key", idempotency_key)
    named = f"{caller.owner}\n{idempotency_key}".encode("utf-8", "surrogateescape")
    return f"key-{hashlib.sha256(named).hexdigest()[:40]}"


def _address_workflow(fields: JsonObject, workflow: str) -> JsonObject:
    if "graph" in fields or isinstance(fields.get("prompt"), dict):
        raise Failure(Reason.BAD_FIELD, field="graph", problem=f"the address names the workflow {excerpt(workflow)}")
    if fields.get("workflow") not in (None, "", workflow):
        raise Failure(Reason.BAD_FIELD, field="workflow", problem=f"the address says {excerpt(workflow)}")
    return fields | {"workflow": workflow}


def _keep_pictures(desk: Desk, job: Job, template: Template, files: dict[str, File]) -> Job:
    """The same job with each file, URL and data: URL replaced by its verified copy: addresses of Dify's files soon expire."""
    params = dict(job.params)
    for name, value in job.params.items():
        if template.parameters[name].kind not in _PICTURES:
            if name in files:
                raise Failure(Reason.BAD_FIELD, field=name, problem="it takes no file")
        elif name in files:
            params[name] = desk.uploads.keep(files[name].content).name
        elif str(value).strip().lower().startswith(("http://", "https://", "data:")):
            params[name] = _fetch(desk, job, name, str(value))
        elif str(value).startswith("uploads/"):
            desk.uploads.touch(str(value))  # somebody needs it: it is not collected before the job is there
    return replace(job, params=params, body={**job.body, "params": params})


def _fetch(desk: Desk, job: Job, name: str, reference: str) -> str:
    """A repetition may come when the address has expired already; then it means the picture that was fetched the first time."""
    try:
        return desk.uploads.fetch(reference).name
    except Failure:
        known = listing.find_record(desk.folders, job.id) if job.id is not None else None
        params = None if known is None else known.body.get("params")
        kept = params.get(name) if isinstance(params, dict) else None
        if isinstance(kept, str) and kept.startswith("uploads/"):
            return kept
        raise


def _publish(desk: Desk, caller: Key, record: Record) -> Submitted:
    """Raises Failure (ID_TAKEN) also where the id is somebody else's, with whatever content."""
    try:
        if reservations.find(desk.folders, record.id) is None:
            desk.limits.check_jobs(caller.owner)
        outcome = publish(desk.folders, record)
        known = listing.find_status(desk.folders, record.id) if outcome == "replay" else None
    except (OSError, Permanent) as error:
        raise Unavailable(f"the job cannot be written: {error}") from error
    owner = getattr(known, "owner", record.owner)
    if not caller.sees(owner):
        raise Failure(Reason.ID_TAKEN, id=record.id)
    _log().info("submitted", id=record.id, owner=record.owner, key_name=caller.name, replay=outcome == "replay")
    return Submitted(record=record, replay=outcome == "replay")
