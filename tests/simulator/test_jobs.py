"""The list of jobs: order, pages, filters. Pure."""

from typing import Any

import pytest

from comfyui_simulator.jobs import BadQueryError, list_jobs
from comfyui_simulator.prompt_queue import Item


def _ended(number: int, *, start: int, end: int, kind: str = "execution_success") -> dict[str, Any]:
    success = kind == "execution_success"
    return {
        "prompt": [number, str(number), {}, {"create_time": 1000 * number}, []],
        "outputs": {},
        "status": {
            "status_str": "success" if success else "error",
            "completed": success,
            "messages": [("execution_start", {"timestamp": start}), (kind, {"timestamp": end})],
        },
    }


HISTORY = {
    "1": _ended(1, start=0, end=30),
    "2": _ended(2, start=40, end=50, kind="execution_error"),
    "3": _ended(3, start=60, end=80, kind="execution_interrupted"),
}
PENDING = [Item(4, "4", {}, {"create_time": 4000}, [])]


def _ids(**query: str) -> list[str]:
    return [job["id"] for job in list_jobs(query, [], PENDING, HISTORY)["jobs"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["4", "3", "2", "1"]),
        ({"sort_order": "asc"}, ["1", "2", "3", "4"]),
        ({"sort_by": "execution_duration", "status": "completed,failed,cancelled"}, ["1", "3", "2"]),
        ({"sort_by": "execution_duration", "sort_order": "asc", "status": "completed,failed"}, ["2", "1"]),
        ({"limit": "2", "offset": "1"}, ["3", "2"]),
        ({"status": "pending"}, ["4"]),
        ({"status": "cancelled"}, ["3"]),
    ],
)
def test_jobs_are_sorted_filtered_and_paged(query: dict[str, str], expected: list[str]) -> None:
    assert _ids(**query) == expected


def test_a_page_tells_whether_more_follow() -> None:
    pages = [list_jobs({"limit": "2", "offset": offset}, [], PENDING, HISTORY)["pagination"] for offset in ("0", "2")]
    assert [page["has_more"] for page in pages] == [True, False]
    assert pages[0]["total"] == 4


def test_a_bad_query_is_told() -> None:
    with pytest.raises(BadQueryError, match="limit must be a positive integer"):
        _ids(limit="0")
