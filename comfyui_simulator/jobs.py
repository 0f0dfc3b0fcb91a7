"""`/api/jobs`: queue and history in one shape, filtered, sorted and paged. Pure."""

from collections.abc import Mapping
from typing import Any

from comfyui_simulator.prompt_queue import Item

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_PREVIEWABLE = frozenset({"images", "video", "audio", "files", "3d"})
_PREVIEWABLE_TYPES = frozenset({"output", "temp"})


def workflow_id(extra_data: Mapping[str, Any]) -> Any:
    """Raises AttributeError for an extra_pnginfo or workflow that is no object, as ComfyUI does: a 500 for everybody."""
    return extra_data.get("extra_pnginfo", {}).get("workflow", {}).get("id")


def describe_waiting(status: str, item: Item) -> dict[str, Any]:
    """A job in the queue, pending or in_progress; it has neither progress nor a start time."""
    return _without_nulls(
        {
            "id": item.prompt_id,
            "status": status,
            "priority": item.number,
            "create_time": item.extra_data.get("create_time"),
            "outputs_count": 0,
            "previewable_outputs_count": 0,
            "workflow_id": workflow_id(item.extra_data),
        }
    )


def describe_ended(prompt_id: str, entry: Mapping[str, Any], *, detailed: bool) -> dict[str, Any]:
    number, _, graph, extra_data, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    error = messages.get("execution_error")
    if entry["status"]["status_str"] == "success":
        status = "completed"
    else:
        status = "cancelled" if "execution_interrupted" in messages else "failed"
    ends = ("execution_success", "execution_error", "execution_interrupted")
    count, previewable, preview = _summarise(entry["outputs"])
    job = {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "execution_start_time": messages["execution_start"]["timestamp"],
        "execution_end_time": next((messages[kind]["timestamp"] for kind in ends if kind in messages), None),
        "execution_error": error,
        "outputs_count": count,
        "previewable_outputs_count": previewable,
        "preview_output": preview,
        "workflow_id": workflow_id(extra_data),
    }
    if detailed:
        job |= {
            "outputs": entry["outputs"],
            "execution_status": entry["status"],
            "workflow": {"prompt": graph, "extra_data": extra_data},
        }
    return _without_nulls(job)


def _without_nulls(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def _summarise(outputs: Mapping[str, Any]) -> tuple[int, int, dict[str, Any] | None]:
    """How many files are listed, how many of them can be shown, and the one to show: a file of output/ if there is any."""
    count = previewable = 0
    best: dict[str, Any] | None = None
    fallback: dict[str, Any] | None = None
    for node_id, ui in outputs.items():
        for key, entries in ui.items():
            for entry in entries:
                origin = {"nodeId": node_id, "mediaType": key}
                if isinstance(entry, str) and key == "text":
                    fallback = fallback or {"content": entry, **origin}
                if not isinstance(entry, dict):
                    continue
                count += 1
                if key not in _PREVIEWABLE:
                    continue
                previewable += 1
                if best is None and entry.get("type") == "output":
                    best = {**entry, **origin}
                elif fallback is None or "content" in fallback:
                    fallback = {**entry, **origin}
    return count, previewable, best or fallback


class BadQueryError(Exception):
    """A query parameter is wrong; the text is the answer's `error`."""


def list_jobs(
    query: Mapping[str, str], running: list[Item], pending: list[Item], history: Mapping[str, Any]
) -> dict[str, Any]:
    wanted = _parse_statuses(query.get("status", ""))
    sort_by, sort_order = query.get("sort_by", "created_at"), query.get("sort_order", "desc")
    if sort_by not in ("created_at", "execution_duration"):
        raise BadQueryError("sort_by must be 'created_at' or 'execution_duration'")
    if sort_order not in ("asc", "desc"):
        raise BadQueryError("sort_order must be 'asc' or 'desc'")
    limit = _parse_number("limit", query.get("limit"))
    if limit is not None and limit <= 0:
        raise BadQueryError("limit must be a positive integer")
    offset = max(0, _parse_number("offset", query.get("offset")) or 0)
    jobs = [describe_waiting("in_progress", item) for item in running]
    jobs += [describe_waiting("pending", item) for item in pending]
    jobs += [describe_ended(prompt_id, entry, detailed=False) for prompt_id, entry in history.items()]
    jobs = [job for job in jobs if job["status"] in wanted]
    if "workflow_id" in query:
        jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
    jobs.sort(key=_duration if sort_by == "execution_duration" else _creation, reverse=sort_order == "desc")
    page = jobs[offset : None if limit is None else offset + limit]
    more = limit is not None and offset + limit < len(jobs)
    return {"jobs": page, "pagination": {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}}


def _creation(job: Mapping[str, Any]) -> tuple[int, float]:
    return job.get("create_time") or 0, job["priority"]


def _duration(job: Mapping[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))


def _parse_statuses(text: str) -> tuple[str, ...]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in STATUSES]:
        raise BadQueryError(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATUSES)}")
    return tuple(names) or STATUSES


def _parse_number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise BadQueryError(f"{name} must be an integer") from None
