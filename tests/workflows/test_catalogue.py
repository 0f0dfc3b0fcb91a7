import errno
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handoff.failures import Failure, Reason, Unavailable
from handoff.messages import render
from workflows import catalogue
from workflows.catalogue import MAX_BYTES, SHIPPED, Catalogue
from workflows.filling import fill
from workflows.template import Broken, Template, parse

GRAPH = '{"1": {"inputs": {"text": "a"}, "class_type": "X", "_meta": {"title": "X"}}}'
PARAMETERS = 'title = "Mine"\n[parameters.prompt]\ntype = "string"\nto = "1.text"\n'


def _write(folder: Path, name: str = "mine", *, graph: str | None = GRAPH, parameters: str | None = PARAMETERS) -> None:
    for suffix, text in ((".json", graph), (".toml", parameters)):
        if text is not None:
            (folder / f"{name}{suffix}").write_text(text)


@pytest.fixture
def _remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as changed just now, so that everything read is remembered at once."""
    monkeypatch.setattr(catalogue, "_CHANGING_NS", -(10**12))


def _failure(call: Callable[[], object]) -> Failure:
    with pytest.raises(Failure) as caught:
        call()
    return caught.value


def _problems(workflows: Catalogue, name: str) -> tuple[str, ...]:
    entry = next(entry for entry in workflows.list() if entry.name == name)
    assert isinstance(entry, Broken)
    return entry.problems


@pytest.mark.parametrize("folder", [None, "absent"])
def test_the_shipped_ones_are_there_without_a_folder_of_ones_own(folder: str | None, tmp_path: Path) -> None:
    workflows = Catalogue(None if folder is None else tmp_path / folder)
    assert [(type(entry), entry.name) for entry in workflows.list()] == [
        (Template, "canvas"),
        (Template, "img2img"),
        (Template, "invert"),
        (Template, "txt2img"),
    ]
    assert workflows.get("canvas").name == "canvas"


def test_ones_own_are_added_and_win(tmp_path: Path) -> None:
    _write(tmp_path)
    _write(tmp_path, "canvas")
    workflows = Catalogue(tmp_path)
    assert workflows.get("mine").title["en"] == "Mine"
    assert workflows.get("canvas").title["en"] == "Mine"
    assert [entry.name for entry in workflows.list()] == ["canvas", "img2img", "invert", "mine", "txt2img"]
    os.unlink(tmp_path / "canvas.json")
    os.unlink(tmp_path / "canvas.toml")
    assert workflows.get("canvas").title["en"] == "Plain canvas"


def test_a_shipped_one_is_not_used_in_place_of_ones_own_that_is_broken(tmp_path: Path) -> None:
    _write(tmp_path, "txt2img", parameters=None)
    failure = _failure(lambda: Catalogue(tmp_path).get("txt2img"))
    assert failure.reason is Reason.BROKEN_WORKFLOW
    assert failure.details["problem"] == "txt2img.toml is missing beside the other file"


def test_an_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path, "poster")
    failure = _failure(lambda: Catalogue(tmp_path).get("postr"))
    assert failure.reason is Reason.UNKNOWN_WORKFLOW
    assert failure.details == {"workflow": "postr", "nearest": "poster"}


@pytest.mark.parametrize("name", ["", "../canvas", "canvas/../canvas", "/etc/passwd", "Canvas", "canvas\n", "a" * 5000])
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    _write(tmp_path)
    failure = _failure(lambda: Catalogue(folder).get(name))
    assert failure.reason is Reason.UNKNOWN_WORKFLOW
    assert len(str(failure.details["workflow"])) <= 80
    assert _failure(lambda: Catalogue(folder).get("../mine")).reason is Reason.UNKNOWN_WORKFLOW


def test_a_broken_one_is_listed_with_everything_that_is_wrong(tmp_path: Path) -> None:
    _write(tmp_path, parameters='titel = "x"\n[parameters.id]\ntype = "string"\nto = "7.text"\n')
    workflows = Catalogue(tmp_path)
    assert len(_problems(workflows, "mine")) == 3
    failure = _failure(lambda: workflows.get("mine"))
    assert failure.reason is Reason.BROKEN_WORKFLOW
    assert "unknown key titel" in render(failure, "en").message
    assert "(and 2 more)" in render(failure, "zh").message


def test_a_change_is_seen_at_once(tmp_path: Path) -> None:
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    for number in range(20):  # same length, within the same tick of the file system's clock
        (tmp_path / "mine.toml").write_text(PARAMETERS.replace("Mine", f"{number:04}"))
        assert workflows.get("mine").title["en"] == f"{number:04}"
        (tmp_path / "mine.json").write_text(GRAPH.replace('"a"', f'"{number:04}"'))
        assert workflows.get("mine").graph["1"]["inputs"]["text"] == f"{number:04}"


@pytest.mark.usefixtures("_remembering")
@pytest.mark.parametrize("way", ["replaced", "in place"])
def test_a_change_that_keeps_time_and_size_is_seen(way: str, tmp_path: Path) -> None:
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    assert workflows.get("mine") is workflows.get("mine")
    target = tmp_path / "mine.toml"
    old = target.stat()
    time.sleep(0.02)  # more than a tick of the kernel's clock
    changed = tmp_path / "new" if way == "replaced" else target
    changed.write_text(PARAMETERS.replace("Mine", "Ours"))
    os.utime(changed, ns=(old.st_mtime_ns, old.st_mtime_ns))
    os.replace(changed, target)
    assert workflows.get("mine").title["en"] == "Ours"


@pytest.mark.parametrize(("age_s", "seen"), [(0, "Ours"), (60, "Mine")])
def test_a_coarse_clock_hides_no_change(age_s: int, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second row shows what the first one is saved from: files whose times tell nothing, and seem to be old."""
    tick = (int(time.time()) - age_s) * 10**9
    monkeypatch.setattr(catalogue, "_sign", lambda _: (tick, tick))
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    assert workflows.get("mine").title["en"] == "Mine"
    _write(tmp_path, parameters=PARAMETERS.replace("Mine", "Ours"))
    assert workflows.get("mine").title["en"] == seen


@pytest.mark.usefixtures("_remembering")
def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    _write(tmp_path, "bad", graph="{}")
    reads: list[str] = []

    def count(name: str, *files: bytes) -> Template | Broken:
        reads.append(name)
        return parse(name, *files)

    monkeypatch.setattr(catalogue, "parse", count)
    workflows = Catalogue(tmp_path)
    for _ in range(3):
        assert workflows.get("mine") is workflows.get("mine")
        assert isinstance(_failure(lambda: workflows.get("bad")), Failure)
        workflows.get("canvas")
    assert sorted(reads) == ["bad", "canvas", "mine"]
    _write(tmp_path, parameters=PARAMETERS + "\n")
    workflows.get("mine")
    assert sorted(reads) == ["bad", "canvas", "mine", "mine"]


@pytest.mark.usefixtures("_remembering")
def test_a_half_written_one_is_broken_until_it_is_whole(tmp_path: Path) -> None:
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    assert workflows.get("mine")
    (tmp_path / "mine.json").write_text(GRAPH[:30])
    failure = _failure(lambda: workflows.get("mine"))
    assert failure.reason is Reason.BROKEN_WORKFLOW
    assert "still being written" in str(failure.details["problem"])
    (tmp_path / "mine.json").write_text(GRAPH)
    assert fill(workflows.get("mine"), {"prompt": "x"}, draw_seed=lambda: 0).graph["1"]["inputs"] == {"text": "x"}


@pytest.mark.parametrize("missing", [".json", ".toml"])
def test_one_file_without_the_other_is_broken(missing: str, tmp_path: Path) -> None:
    _write(tmp_path)
    os.unlink(tmp_path / f"mine{missing}")
    assert _problems(Catalogue(tmp_path), "mine") == (f"mine{missing} is missing beside the other file",)


def test_a_file_that_no_job_could_name_is_listed_as_broken(tmp_path: Path) -> None:
    _write(tmp_path, "My Flow")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")).write_text("{}")
    for name in (".hidden.json", "mine.json~", "README.md"):
        (tmp_path / name).write_text("{}")
    broken = [entry for entry in Catalogue(tmp_path).list() if isinstance(entry, Broken)]
    assert [entry.name for entry in broken] == ["My Flow", "\N{REPLACEMENT CHARACTER}"]
    assert all("rename both files" in entry.problems[0] for entry in broken)
    nearest = _failure(lambda: Catalogue(tmp_path).get("flow")).details["nearest"]
    assert nearest == "canvas, img2img, invert, txt2img"  # names that a job can give


def test_a_link_is_followed_to_a_regular_file(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "workflows"
    elsewhere.mkdir()
    _write(elsewhere)
    folder.mkdir()
    for suffix in (".json", ".toml"):
        os.symlink(elsewhere / f"mine{suffix}", folder / f"linked{suffix}")
    workflows = Catalogue(folder)
    assert workflows.get("linked").title["en"] == "Mine"
    _write(elsewhere, parameters=PARAMETERS.replace("Mine", "Ours"))
    assert workflows.get("linked").title["en"] == "Ours"
    os.unlink(elsewhere / "mine.json")
    assert _problems(workflows, "linked") == ("linked.json is a link to nothing",)


def test_links_to_nothing_do_not_bring_back_what_they_hide(tmp_path: Path) -> None:
    for suffix in (".json", ".toml"):
        os.symlink(tmp_path / "away", tmp_path / f"canvas{suffix}")
    assert _problems(Catalogue(tmp_path), "canvas") == ("canvas.json is a link to nothing",)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "mine.json is no regular file"),
        (os.mkfifo, "mine.json is no regular file"),
        (_make_socket, "mine.json cannot be read: No such device or address"),
        (lambda path: os.symlink("/dev/zero", path), "mine.json is no regular file"),
        (lambda path: os.symlink(path, path), "mine.json cannot be read: Too many levels of symbolic links"),
        (lambda path: os.truncate(path, MAX_BYTES + 1) if path.touch() is None else None, "mine.json is larger than"),
    ],
)
def test_what_is_no_file_of_a_template_is_broken_and_blocks_nothing(
    make: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    _write(tmp_path, graph=None)
    make(tmp_path / "mine.json")
    problems = _problems(Catalogue(tmp_path), "mine")
    assert len(problems) == 1
    assert problems[0].startswith(said)


def _fail_with(number: int) -> Callable[..., int]:
    def fail(path: str, *_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), path)

    return fail


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "mine.json cannot be read: Permission denied"),
        (errno.ENOENT, "a file was removed just now"),
        (errno.ENOTDIR, "a file was removed just now"),
    ],
)
def test_a_file_that_cannot_be_read_is_broken(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", _fail_with(number))
        failure = _failure(lambda: workflows.get("mine"))
    assert (failure.reason, failure.details["problem"]) == (Reason.BROKEN_WORKFLOW, said)


@pytest.mark.parametrize("call", ["stat", "open", "read"])
def test_a_failing_disk_is_no_fault_of_the_template(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path)
    workflows = Catalogue(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, _fail_with(errno.EIO))
        with pytest.raises(Unavailable, match="Input/output error"):
            workflows.get("mine")
    assert workflows.get("mine").name == "mine"


def test_reading_what_is_no_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    _write(tmp_path, graph=None)
    (tmp_path / "mine.json").mkdir()
    workflows = Catalogue(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        _problems(workflows, "mine")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_folder_that_cannot_be_listed_is_no_fault_of_a_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows = Catalogue(tmp_path)
    monkeypatch.setattr(os, "scandir", _fail_with(errno.EIO))
    with pytest.raises(Unavailable, match="cannot list the workflows"):
        workflows.list()


def test_a_folder_that_is_a_file_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    workflows = Catalogue(tmp_path / "file")
    assert workflows.get("canvas").name == "canvas"
    assert len(workflows.list()) == 4


def test_a_copy_of_a_shipped_one_is_the_same_template(tmp_path: Path) -> None:
    for suffix in (".json", ".toml"):
        shutil.copy(SHIPPED / f"txt2img{suffix}", tmp_path)
    assert Catalogue(tmp_path).get("txt2img") == Catalogue(None).get("txt2img")
