"""How things look on a terminal. Standard output holds the answer, standard error all else.

What comes from jobs is foreign text: it is never read as markup, and no control character of it reaches a terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from handoff.failures import Failure
from handoff.folders import Folders
from handoff.messages import Language, render
from handoff.spool.record import Tombstone
from handoff.state import Status
from handoff.status import ErrorEntry, OutputEntry, StatusDocument

_PIPED_WIDTH = 240  # columns of a table that no terminal limits
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
STYLES: dict[str, str] = {
    Status.QUEUED: "cyan",
    Status.RUNNING: "blue",
    Status.SAVING: "blue",
    Status.SUCCEEDED: "green",
    Status.CANCELLED: "yellow",
}


@cache
def console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPED_WIDTH
    return Console(stderr=stderr, width=width, markup=False, highlight=False, soft_wrap=True)


def clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def say(text: str = "", style: str = "") -> None:
    """The answer."""
    console().print(Text(clean(text), style=style))


def note(text: str, style: str = "") -> None:
    """What a person should know and a script need not read."""
    console(stderr=True).print(Text(clean(text), style=style))


def warn(text: str) -> None:
    note(f"Warning: {text}", "yellow")


def print_json(value: Any) -> None:
    """All that a command with --json writes to standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    console().print(table, soft_wrap=False)


def show_status(status: Status) -> Text:
    return Text(status, style=STYLES.get(status, "red"))


def show_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def show_bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def explain_failure(failure: Failure, language: Language) -> str:
    text = render(failure, language)
    return clean(f"{text.message}\n  {text.hint}")


# ── a job ──


def to_json(document: StatusDocument | Tombstone, id: str, position: int | None) -> dict[str, Any]:
    """The status document with `queue_position`; of a removed job what is left, in the same words."""
    if isinstance(document, Tombstone):
        succeeded = document.status == Status.SUCCEEDED
        return {
            "schema": 1,
            "id": id,
            "status": document.status,
            "done": True,
            "ok": succeeded,
            "finished_at": document.finished_at,
            "outputs": [],
            "removed": True,
            "queue_position": None,
        }
    return {**document.model_dump(mode="json", by_alias=True), "queue_position": position}


def describe(document: StatusDocument | Tombstone, position: int | None) -> str:
    """One line: where the job stands."""
    if isinstance(document, Tombstone):
        return f"{document.status} at {document.finished_at}; its files were removed by retention"
    match document.status:
        case Status.QUEUED if position is not None:
            return f"queued, number {position} in the queue"
        case Status.QUEUED:
            return "queued, claimed by a watcher"
        case Status.RUNNING:
            step = f", {document.step}" if document.step else ""
            return f"running, {document.progress:.0%}{step}"
        case Status.SAVING:
            return f"saving {len(document.outputs)} output(s) to the bucket"
        case _:
            times = {"queued": document.queue_s, "running": document.run_s, "saving": document.save_s}
            parts = [f"{name} {show_seconds(seconds)}" for name, seconds in times.items() if seconds is not None]
            return document.status + (f" ({', '.join(parts)})" if parts else "")


def print_job(document: StatusDocument | Tombstone, id: str, position: int | None, folders: Folders) -> None:
    """The job's status, its results and what went wrong."""
    say(f"{id}: {describe(document, position)}", STYLES.get(document.status, "red"))
    if isinstance(document, Tombstone):
        return
    if document.outputs:
        print_outputs(document.outputs, folders.job(id))
    for entry in document.texts:
        say(f"Text of node {entry.node}: {entry.text}")
    for warning in document.warnings:
        say(f"Warning: {warning}", "yellow")
    if document.error is not None:
        print_error(document.error)


def print_outputs(outputs: Sequence[OutputEntry], folder: str) -> None:
    rows = []
    for output in outputs:
        size = show_bytes(output.bytes)
        if output.width is not None and output.height is not None:
            size += f", {output.width}×{output.height}"
        places = [f"{folder}/{output.name}", f"bucket: {output.key}", *([output.url] if output.url else [])]
        rows.append((output.name, output.kind, size, "\n".join(places)))
    print_table(("output", "kind", "size", "where"), rows)


def print_error(error: ErrorEntry) -> None:
    say(f"{error.reason}: {error.message}", "red")
    if error.node is not None:
        say(f"  node {error.node.id} ({error.node.title or error.node.class_type or 'unknown class'})")
    say(f"  {error.hint}")
