"""What docs/protocol.md, docs/promises.md and docs/states.md name is what the program has: places, fields, events, and the tests themselves."""

import os
import re
from pathlib import Path

import pytest

from handoff.folders import Folders
from handoff.spool.record import Record
from handoff.state import Event
from handoff.status import StatusDocument
from tests.upgrade.frozen import VOLUMES, Frozen

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocol.md").read_text()
SEAT = "input/.handoff/w-<wid>"

WORDS = {
    "<wid>": "[0-9a-f]{16}",
    "<token>": "[0-9a-f]{16}",
    "<id>": r"[a-z0-9][a-z0-9_-]{0,63}",
    "<n>": r"\d+",
    "<rank>": r"\d{20}",
    "<T>": r"\d{8}T\d{12}-[0-9a-f]{16}",
    "<YYYY-MM-DD>": r"\d{4}-\d\d-\d\d",
    "<sha256>": "[0-9a-f]{64}",
    "<ext>": r"\w+",
    "<name>": "[^/]+",
}
OF_COMFYUI = r"output/\.handoff/work/.+/.+"
OUTPUT = r"output/[^/.]+/[^/]+"


def documented() -> list[str]:
    """The places of section 2, whole."""
    section = PAGE.partition("## 2. Files")[2].partition("\n## ")[0]
    places: list[str] = []
    above = ""
    for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", row):
            if name.startswith("…/"):  # in the folder of a row above
                places.append(above + name.removeprefix("…"))
            elif "/" in name:
                above = name.rstrip("/")
                places.append(above)
            else:  # beside the name before it
                places.append(f"{os.path.dirname(above)}/{name}")
    return places


def pattern(place: str) -> str:
    text = re.escape(place.rstrip("/"))
    for word, digits in WORDS.items():
        text = text.replace(re.escape(word), digits)
    return text.replace("…", ".+")


def test_every_folder_of_the_program_is_documented() -> None:
    folders = Folders("input", "output")
    names = [
        folders.uploads,
        folders.rejected,
        folders.inbox,
        folders.ids,
        folders.tmp,
        folders.done,
        folders.paused,
        folders.work,
        folders.watcher("<wid>"),
        folders.pen("<wid>"),
        folders.reservation("<id>"),
        folders.cancel_mark("<id>"),
        folders.job("<id>"),
    ]
    places = documented()
    assert [name for name in names if not any(place.startswith(name) for place in places)] == []


@pytest.mark.parametrize("version", sorted(path.stem for path in VOLUMES.glob("*.json")))
def test_every_file_of_a_real_volume_is_documented(version: str) -> None:
    known = re.compile("|".join([*map(pattern, documented()), OF_COMFYUI, OUTPUT]))
    files = [name for name in Frozen.load(version).files if not name.startswith("bucket/")]
    assert len(files) > 30
    assert [name for name in files if not known.fullmatch(name)] == []


def test_every_kind_of_file_in_a_seat_is_documented() -> None:
    """What the modules put there: `f"{self._seat.path}/r-{token}"` and its like."""
    made = set()
    for path in (ROOT / "handoff/spool").glob("*.py"):
        made |= set(re.findall(r"(?:\.path|starting|folder)\}/([a-z]+-|lease|server\.json)", path.read_text()))
    assert made >= {"b-", "r-", "t-", "from-", "lease"}
    places = [place.removeprefix(f"{SEAT}/") for place in documented() if place.startswith(f"{SEAT}/")]
    assert {name for name in made if not any(place.startswith(name) for place in places)} == set()


def test_every_field_of_the_record_is_documented() -> None:
    table = PAGE.partition("**The record**")[2].partition("A record has three lives")[0]
    fields = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))))
    assert fields == Record.model_fields.keys() - {"schema_version"}


@pytest.mark.parametrize("page", ["protocol", "promises"])
def test_every_file_named_on_a_page_exists(page: str) -> None:
    named = re.findall(r"`((?:tests|handoff|watcher)/[\w/]+(?:\.py)?)`", (ROOT / f"docs/{page}.md").read_text())
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_page_of_the_states_tells_of_every_event_and_of_fields_that_exist() -> None:
    page = (ROOT / "docs/states.md").read_text().partition("## What happens")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert rows.keys() == set(Event)
    fields = {name for row in rows.values() for name in re.findall(r"`(\w+)`", row.rpartition(" | ")[2])}
    assert fields - StatusDocument.model_fields.keys() == {"failed"}
