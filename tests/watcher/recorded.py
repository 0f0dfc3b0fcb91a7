"""Answers and files that a real ComfyUI gave, case by case."""

import json
from pathlib import Path
from typing import Any

from handoff.graph import Graph

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "cases.json").read_text())
LISTINGS = json.loads((DATA / "listings.json").read_text())


def refusals(case: str) -> list[tuple[Graph, dict[str, Any], int]]:
    """What was submitted, what came back, and with which status."""
    steps = [step for step in CASES[case]["steps"] if step["request"]["path"] == "/prompt"]
    return [(step["request"]["json"]["prompt"], step["response"]["json"], step["response"]["status"]) for step in steps]
