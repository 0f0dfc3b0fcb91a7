"""What a person does with jobs that exist: look, find out what happened, cancel, retry."""

import os
from collections.abc import Sequence

from handoff import timestamps
from handoff.folders import Folders
from handoff.masking import mask_urls
from handoff.spool import listing
from handoff.spool.publisher import ask_to_cancel, make_retry, publish
from handoff.spool.record import Record, Tombstone
from handoff.state import Status
from handoff.status import StatusDocument
from handoff_cli.exits import Exit, Stopped, unknown_id
from handoff_cli.following import show_now, wait
from handoff_cli.installation import open_folders, warn_of_absence, warn_of_standstill
from handoff_cli.rendering import (
    describe,
    note,
    print_error,
    print_json,
    print_outputs,
    print_table,
    say,
    show_seconds,
    show_status,
    warn,
)

ENDINGS = {
    "lost": "ComfyUI lost it",
    "comfyui_error": "ComfyUI answered with an error of its own",
    "interrupted": "it was interrupted at ComfyUI",
    "out_of_memory": "the GPU ran out of memory",
}


def status(id: str, *, waits: bool, wait_s: float | None, as_json: bool) -> Exit:
    _, folders = open_folders()
    return wait(folders, id, wait_s=wait_s, as_json=as_json) if waits else show_now(folders, id, as_json=as_json)


# ── show ──


def show(id: str) -> Exit:
    """What happened to a job, from its status and its journal."""
    _, folders = open_folders()
    document = _find(folders, id)
    if isinstance(document, Tombstone):
        say(f"{id}: {describe(document, None)}")
        return Exit.DONE
    record = listing.find_record(folders, id)
    position = listing.queue_position(folders, record) if record is not None and not document.done else None
    say(f"{id}: {describe(document, position)}", "bold")
    print_table(("", ""), _facts(document, record))
    print_table(("time", "what happened"), _history(document, record))
    for warning in document.warnings:
        say(f"Warning: {warning}", "yellow")
    if document.error is not None:
        print_error(document.error)
    if document.outputs:
        print_outputs(document.outputs, folders.job(id))
    print_table(("", ""), _places(folders, id))
    return Exit.DONE


def _facts(document: StatusDocument, record: Record | None) -> list[tuple[str, str]]:
    simulated = " (simulated)" if document.comfyui.simulated else ""
    facts = {
        "workflow": document.workflow or "(a graph)",
        "source": document.source,
        "owner": document.owner,
        "retry of": document.retry_of,
        "priority": str(document.priority),
        "ComfyUI": f"{document.comfyui.version}{simulated}" if document.comfyui.version else None,
        "server": mask_urls(record.server) if record is not None and record.server else None,
        "prompt id": document.comfyui.prompt_id,
    }
    return [(name, fact) for name, fact in facts.items() if fact]


def _history(document: StatusDocument, record: Record | None) -> list[tuple[str, str]]:
    events = [(document.created_at, "accepted")]
    tries = record.tries if record is not None else []
    for earlier in tries:
        strike = "; it was running, so this counts against it" if earlier.strike else ""
        events.append(("", f"attempt {earlier.attempt}: {ENDINGS[earlier.ended]}{strike}"))
    if record is not None and record.journalled_at is not None:
        events.append((record.journalled_at, f"attempt {record.attempt} sent to ComfyUI"))
    if document.started_at is not None:
        events.append((document.started_at, f"started, after waiting {show_seconds(document.queue_s)}"))
    if document.run_s is not None:
        gpu = f", of which the GPU {show_seconds(document.gpu_s)}" if document.gpu_s is not None else ""
        events.append(("", f"ran {show_seconds(document.run_s)}{gpu}"))
    if document.save_s is not None:
        events.append(("", f"saved in {show_seconds(document.save_s)}"))
    if document.finished_at is not None:
        events.append((document.finished_at, f"{document.status}"))
    return events


def _places(folders: Folders, id: str) -> list[tuple[str, str]]:
    places = {
        "status": folders.status(id),
        "job as accepted": folders.job_document(id),
        "journal": listing.locate(folders, id),
    }
    return [(name, path) for name, path in places.items() if path is not None and os.path.lexists(path)]


# ── list ──


def list_jobs(*, statuses: Sequence[Status], workflow: str | None, limit: int, as_json: bool) -> Exit:
    _, folders = open_folders()
    found = listing.list_jobs(folders, statuses=statuses or tuple(Status), workflow=workflow, limit=limit)
    if as_json:
        jobs = [job.model_dump(mode="json", by_alias=True) for job in found.jobs]
        print_json({"jobs": jobs, "more": found.more})
    else:
        rows = [
            (
                job.id,
                show_status(job.status),
                job.workflow or "-",
                job.created_at,
                show_seconds(job.run_s),
                _result(job),
            )
            for job in found.jobs
        ]
        if rows:
            print_table(("id", "status", "workflow", "accepted", "ran", "result"), rows)
        else:
            note("No such job.")
        if found.more:
            note(f"There are more: --limit {limit * 2} shows them.")
        if any(not job.done for job in found.jobs):
            warn_of_standstill(folders)
    for problem in found.unreadable:
        warn(problem)
    return Exit.DONE


def _result(job: StatusDocument) -> str:
    if job.error is not None:
        return job.error.reason
    return job.step or (f"{len(job.outputs)} output(s)" if job.outputs else "")


# ── cancel, retry ──


def cancel(id: str, *, waits: bool, wait_s: float | None) -> Exit:
    """Leaves a mark that any watcher acts upon. A job that is final already stays as it is."""
    _, folders = open_folders()
    document = _find(folders, id)
    if isinstance(document, Tombstone) or document.done:
        say(f"{id} is over already: {describe(document, None)}")
        return Exit.DONE
    ask_to_cancel(folders, id)
    note(f"{id} is asked to stop. A job that has already succeeded at ComfyUI is still saved.")
    warn_of_absence(folders)
    if not waits:
        return Exit.DONE
    ended = wait(folders, id, wait_s=wait_s, as_json=False)
    return ended if ended is Exit.WAIT_OVER else Exit.DONE


def retry(id: str, *, waits: bool, wait_s: float | None, as_json: bool) -> Exit:
    """A new job of the same parameters, pictures and seed. Its id is fixed, so that retrying twice makes one job."""
    _, folders = open_folders()
    document = _find(folders, id)
    record = None if isinstance(document, Tombstone) else listing.find_record(folders, id)
    if isinstance(document, Tombstone) or record is None:
        raise Stopped(Exit.UNKNOWN_ID, f"{id} was removed by retention: what it asked for is no longer known.")
    if not document.done:
        raise Stopped(Exit.USAGE, f"{id} is not over: {describe(document, None)}. `handoff cancel {id}` stops it.")
    if document.ok:
        raise Stopped(Exit.USAGE, f"{id} succeeded; only a job that did not can be retried. Submit it anew instead.")
    if document.error is not None and not document.error.retryable:
        warn(f"{document.error.reason} seldom goes away by itself. {document.error.hint}")
    again = make_retry(record, received_at=timestamps.to_text(timestamps.now()))
    outcome = publish(folders, again)
    warn_of_standstill(folders)
    if waits:
        note(again.id)
        return wait(folders, again.id, wait_s=wait_s, as_json=as_json)
    if as_json:
        show_now(folders, again.id, as_json=True)
        return Exit.DONE
    print(again.id)
    note("It was retried before: this is that job." if outcome == "replay" else f"Submitted as a retry of {id}.")
    return Exit.DONE


def _find(folders: Folders, id: str) -> StatusDocument | Tombstone:
    """Raises Stopped for an unknown id."""
    document = listing.find_status(folders, id)
    if document is None:
        raise unknown_id(id)
    return document
