"""Documents on disk: versions, damage, and files that are none."""

import os
from pathlib import Path

import pytest

from handoff.documents import Document, UnreadableDocument


class Note(Document):
    text: str


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "note"
    path.write_bytes(Note(text="猫").to_bytes())
    assert Note.read(str(path)) == Note(text="猫")
    assert Note.find(str(path)) == Note(text="猫")
    assert path.read_bytes() == '{"schema":1,"text":"猫"}\n'.encode()


def test_a_missing_one(tmp_path: Path) -> None:
    assert Note.find(str(tmp_path / "note")) is None
    (tmp_path / "file").touch()
    assert Note.find(str(tmp_path / "file" / "note")) is None
    with pytest.raises(FileNotFoundError):
        Note.read(str(tmp_path / "note"))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"schema": 1}', b'{"schema": "x", "text": ""}'])
def test_a_damaged_one_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "note"
    path.write_bytes(data)
    with pytest.raises(UnreadableDocument, match=f"{path} is damaged"):
        Note.read(str(path))
    assert path.read_bytes() == data


def test_a_newer_one_is_left_alone() -> None:
    with pytest.raises(UnreadableDocument, match="newer version \\(schema 2\\)"):
        Note.from_bytes(b'{"schema": 2, "text": "x"}', "note")


def test_unknown_keys_are_dropped() -> None:
    assert Note.from_bytes(b'{"schema": 1, "text": "x", "more": 1}', "note") == Note(text="x")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "note"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UnreadableDocument, match="no regular file"):
        Note.find(str(path))


def test_evolving_changes_a_copy() -> None:
    note = Note(text="a")
    assert note.evolve(text="b") == Note(text="b")
    assert note.text == "a"
