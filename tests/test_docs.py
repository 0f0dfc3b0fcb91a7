"""The documentation says what the code says: every setting, reason and status is documented once, and stays so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from handoff.failures import Reason
from handoff.settings import PROGRAMS, name_of
from handoff.state import Event, Status, diagram

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _part(name: str) -> str:
    found = re.search(rf"<!-- generated: {name} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found
    return found[1]


def test_the_generated_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_documented_once(reason: Reason) -> None:
    assert len(re.findall(rf"^\| `{reason}` \|", _part("reasons"), re.MULTILINE)) == 1


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_documented_once(status: Status) -> None:
    assert len(re.findall(rf"^\| `{status}` \|", _part("statuses"), re.MULTILINE)) == 1


@pytest.mark.parametrize("field", sorted({field for program in PROGRAMS for field in program.model_fields}))
def test_every_setting_is_documented_once_and_described(field: str) -> None:
    rows = re.findall(rf"^\| `{name_of(field)}` \|.*\| (.+) \|$", _part("settings"), re.MULTILINE)
    assert len(rows) == 1
    assert rows[0] != "None"


@pytest.mark.parametrize("event", list(Event))
def test_every_event_is_in_the_diagram(event: Event) -> None:
    assert f": {event}\n" in diagram()


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    generate = (ROOT / "docs/generate.py").read_text()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/generate.py").write_text(generate)
    (tmp_path / "README.md").write_text("<!-- generated: statuses -->\nold\n<!-- end -->\n")
    (tmp_path / "docs/states.md").write_text("nothing generated\n")
    command = [sys.executable, str(tmp_path / "docs/generate.py")]
    assert subprocess.run([*command, "--check"], capture_output=True, check=False).returncode == 1
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert subprocess.run([*command, "--check"], capture_output=True, check=False).returncode == 0
