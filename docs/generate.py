"""Writes the generated parts of the documentation from the code, or checks that they are up to date (--check).

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from pydantic_core import PydanticUndefined

from handoff import state
from handoff.failures import RETRYABLE
from handoff.messages import FAILURES
from handoff.settings import PROGRAMS, Settings, name_of
from handoff.state import Status

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/states.md")
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def statuses() -> str:
    rows = ["| status | means | done |", "| --- | --- | --- |"]
    rows += [f"| `{status}` | {state.MEANING[status]} | {str(status.done).lower()} |" for status in Status]
    return "\n".join(rows)


def reasons() -> str:
    rows = ["| reason | what happened | what to do | worth a retry |", "| --- | --- | --- | --- |"]
    for reason, texts in FAILURES.items():
        text = texts["en"]
        retry = "yes" if reason in RETRYABLE else ""
        rows.append(f"| `{reason}` | {_show(text.message)} | {_show(text.hint)} | {retry} |")
    return "\n".join(rows)


def settings() -> str:
    rows = ["| setting | default | |", "| --- | --- | --- |"]
    programs: list[type[Settings]] = [Settings, *PROGRAMS]
    for program in programs:
        for name, field in program.model_fields.items():
            if program is not Settings and name in Settings.model_fields:
                continue
            rows.append(f"| `{name_of(name)}` | {_default(field.default)} | {field.description} |")
    return "\n".join(rows)


def states() -> str:
    return f"```mermaid\n{state.diagram()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "statuses": statuses,
    "reasons": reasons,
    "settings": settings,
    "states": states,
}


def _show(text: str) -> str:
    """A template as a reader sees it: placeholders in italics, and nothing that ends a table cell."""
    plain = re.sub(r"\{(\w+)\}", r"*\1*", text.replace("{{", "\0").replace("}}", "\1"))
    return plain.replace("\0", "{").replace("\1", "}").replace("|", "\\|").replace("<", "&lt;")


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined or value == ():
        return "—"
    if isinstance(value, bool):
        return "`yes`" if value else "`no`"
    return f"`{value}`"


def fill(text: str) -> str:
    """The page with every generated part made anew. Raises KeyError for a part that nobody makes."""
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    stale = []
    for page in PAGES:
        path = ROOT / page
        text = path.read_text()
        filled = fill(text)
        if filled != text:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(filled)
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
