"""What README.md and docs/dify.md (in both languages) print: the lines are typed word for word, and pictures come of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dify_adapter import flows
from handoff.settings import AdapterSettings, name_of
from tests.servers.watcher import LIMIT_S, ROOT

README, ENGLISH, CHINESE = (
    (ROOT / name).read_text("utf-8") for name in ("README.md", "docs/dify.md", "docs/dify.zh.md")
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ALONE = ["unshare", "--user", "--map-root-user", "--net"]


def blocks(page: str, *kinds: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page) if not kinds or found in kinds]


def type_lines(folder: Path, which: str, lines: list[str]) -> None:
    """In a network of its own, where the printed ports are free."""
    if subprocess.run([*_ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    programs = folder / "bin"
    programs.mkdir()
    command = programs / "handoff"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m handoff_cli "$@"\n')
    command.chmod(0o755)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HANDOFF_", "AWS_")) and "proxy" not in name.lower()
    }
    ran = subprocess.run(
        [*_ALONE, sys.executable, str(Path(__file__).with_name("printed.py")), which, *lines],
        cwd=folder,
        env={**clean, "PATH": f"{programs}:{clean['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S + 50,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_the_readmes_lines_submit_wait_and_download(tmp_path: Path) -> None:
    section = README.partition("## Over HTTP\n")[2].partition("\n## ")[0]
    type_lines(tmp_path, "http", blocks(section, "sh", "python"))
    assert size_of(tmp_path / "poster.png") == (768, 512)
    assert size_of(tmp_path / "cityscape.png") == (512, 512)


def test_difys_steps_end_with_a_picture(tmp_path: Path) -> None:
    type_lines(tmp_path, "dify", blocks(ENGLISH, "sh"))
    assert size_of(tmp_path / "dify.png") == (512, 512)


def test_both_languages_show_the_same_lines() -> None:
    assert blocks(ENGLISH)[1:] == blocks(CHINESE)[1:]  # the first is the drawing
    for pattern in (r"^#+ ", r"^\| ", r"`HANDOFF_\w+`", r"`SSRF_PROXY_\w+"):
        counts = [len(re.findall(pattern, page, re.MULTILINE)) for page in (ENGLISH, CHINESE)]
        assert counts[0] == counts[1] > 0, pattern


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_the_page_names_what_there_is(page: str) -> None:
    assert all(f"`{name}.yml`" in page for name in flows.NAMES)
    known = {name_of(field) for field in AdapterSettings.model_fields} | {"HANDOFF_COMFYUI_URL"}
    assert set(re.findall(r"HANDOFF_[A-Z_]+", page)) - known <= {"HANDOFF_URL", "HANDOFF_KEY"}
