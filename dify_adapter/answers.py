"""How jobs and refusals are told: as a JSON document, a word, Markdown for a Dify answer, or a problem document. Pure."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from dify_adapter.refusal import Refused
from handoff.messages import Language
from handoff.spool.record import Tombstone
from handoff.spool.sight import Sight
from handoff.state import Status
from handoff.status import OutputEntry, StatusDocument, describe_failure

Link = Callable[[str, str], str]
"""The address of an output, by the job's id and the output's name."""

MOST_BYTES = 900_000
"""Of an answer: above 1 MiB Dify's HTTP node fails."""

_TEXTS: dict[str, dict[Language, str]] = {
    "queued": {"en": "Queued.", "zh": "排队中。"},
    "queued_at": {"en": "Queued, number {position} in line.", "zh": "排队中，第 {position} 位。"},
    "queued_for": {
        "en": "Queued, number {position} in line, about {seconds}.",
        "zh": "排队中，第 {position} 位，大约还需 {seconds}。",
    },
    "running": {"en": "Drawing: {share}.", "zh": "绘制中：{share}。"},
    "running_for": {"en": "Drawing: {share}, about {seconds} left.", "zh": "绘制中：{share}，大约还需 {seconds}。"},
    "saving": {"en": "Drawn; being saved.", "zh": "已完成绘制，正在保存。"},
    "succeeded": {"en": "Done.", "zh": "已完成。"},
    "removed": {
        "en": "Over since {at} ({status}); its files were removed.",
        "zh": "已于 {at} 结束（{status}）；文件已被清理。",
    },
    "seconds": {"en": "{number} s", "zh": "{number} 秒"},
    "minutes": {"en": "{number} min", "zh": "{number} 分钟"},
}


# ── a job ──


def to_document(sight: Sight, id: str, link: Link) -> dict[str, Any]:
    """The status document with the place in the line, and with links that open now."""
    document = sight.document
    if isinstance(document, Tombstone):
        found = _empty(id) | {
            "status": document.status,
            "done": True,
            "ok": document.status == Status.SUCCEEDED,
            "finished_at": document.finished_at,
            "removed": True,
        }
        return {**found, "queue_position": None, "eta_s": None}
    linked = _with_links(document, link)
    said = linked.model_dump(mode="json", by_alias=True)
    said |= {"queue_position": sight.position, "eta_s": sight.eta_s}
    return _shorten(said)


def _empty(id: str) -> dict[str, Any]:
    """Every key of a status document, with nothing known but the id."""
    said = StatusDocument(id=id, created_at="1970-01-01T00:00:00Z").model_dump(mode="json", by_alias=True)
    return said | {"created_at": None}


def _with_links(document: StatusDocument, link: Link) -> StatusDocument:
    outputs = [output.model_copy(update={"url": link(document.id, output.name)}) for output in document.outputs]
    return document.evolve(outputs=outputs).with_links()


def _shorten(said: dict[str, Any]) -> dict[str, Any]:
    """Without the long texts where they would make it more than Dify takes; they are outputs of the job all the same."""
    if sum(len(entry["text"]) for entry in said["texts"]) * 4 < MOST_BYTES // 2:
        return said
    left = MOST_BYTES // 2
    texts = []
    for entry in said["texts"]:
        kept = entry["text"].encode()[: max(left, 0)].decode("utf-8", "ignore")
        left -= len(kept.encode())
        texts.append({**entry, "text": kept})
    return said | {"texts": texts}


def to_text(sight: Sight) -> str:
    return str(sight.status)


def to_markdown(sight: Sight, language: Language, link: Link) -> str:
    """What an Answer node can print in every state of the job."""
    document = sight.document
    if isinstance(document, Tombstone):
        return _say("removed", language, at=document.finished_at, status=document.status)
    match document.status:
        case Status.QUEUED:
            if sight.position is None:
                return _say("queued", language)
            if sight.eta_s is None:
                return _say("queued_at", language, position=sight.position)
            return _say("queued_for", language, position=sight.position, seconds=_seconds(sight.eta_s, language))
        case Status.RUNNING:
            share = f"{document.progress:.0%}"
            if sight.eta_s is None:
                return _say("running", language, share=share)
            return _say("running_for", language, share=share, seconds=_seconds(sight.eta_s, language))
        case Status.SAVING:
            return _say("saving", language)
        case Status.SUCCEEDED:
            return _show_results(_with_links(document, link)) or _say("succeeded", language)
        case _:
            error = document.error
            return str(document.status) if error is None else f"{error.message} {error.hint}"


def _show_results(document: StatusDocument) -> str:
    """Each picture on a line of its own: Dify takes two on one line for a single link."""
    return "\n\n".join([*map(_show_output, document.outputs), *(entry.text for entry in document.texts)])


def _show_output(output: OutputEntry) -> str:
    return f"{'!' if output.kind == 'image' else ''}[{output.name}]({output.url})"


def _say(key: str, language: Language, **details: object) -> str:
    return _TEXTS[key][language].format(**details)


def _seconds(seconds: float, language: Language) -> str:
    if seconds < 90:
        return _say("seconds", language, number=max(1, round(seconds)))
    return _say("minutes", language, number=round(seconds / 60))


# ── a refusal ──


def to_problem(refused: Refused, status: int, language: Language) -> dict[str, Any]:
    """RFC 9457."""
    entries = [describe_failure(failure, language) for failure in refused.failures]
    first = entries[0]
    return {
        "type": f"urn:handoff:{first.reason}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": first.message,
        "reason": first.reason,
        "hint": first.hint,
        "retryable": first.retryable,
        "errors": [
            {"reason": entry.reason, "field": _field(failure.details), "message": entry.message, "hint": entry.hint}
            for entry, failure in zip(entries, refused.failures, strict=True)
        ],
    }


def to_rejection(refused: Refused, id: str | None, status: int, language: Language) -> dict[str, Any]:
    """The same as a status document, for Dify, which hides the body of whatever is not 2xx."""
    entries = [describe_failure(failure, language) for failure in refused.failures]
    messages = [entry.message for entry in entries]
    error = entries[0].model_copy(update={"message": " ".join(messages)})
    return _empty(id or "") | {
        "id": id,
        "status": str(Status.REJECTED),
        "done": True,
        "error": error.model_dump(mode="json", by_alias=True),
        "http_status": status,
        "queue_position": None,
        "eta_s": None,
    }


def to_sentence(refused: Refused, language: Language) -> str:
    entries = [describe_failure(failure, language) for failure in refused.failures]
    return " ".join([*(entry.message for entry in entries), entries[0].hint])


def _field(details: Mapping[str, object]) -> str | None:
    for name in ("field", "parameter", "target", "key"):
        if isinstance(found := details.get(name), str):
            return found
    return None


def dump(value: Any) -> bytes:
    """Compact, so that a string condition such as `contains "done":true` holds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
