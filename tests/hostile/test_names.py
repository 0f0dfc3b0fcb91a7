"""What lies in `input/` under a name, or as a thing, that nobody expects. Contents are in the corpus."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from tests.e2e.conftest import StartWatcher
from tests.e2e.jobs import canvas, encode
from tests.e2e.promises import check_promises
from tests.e2e.volume import Volume, eventually
from tests.figures import Note
from tests.hostile.test_corpus import outcomes
from tests.servers.simulator import Simulator

TAKEN, IGNORED = "succeeded", "ignored"
LONG = b"n" * 250 + b".json"
NAMES: dict[bytes, str] = {
    b"plain.json": TAKEN,
    b"upper.JSON": TAKEN,
    b"Mixed.Json": TAKEN,
    b"PLAIN.json": TAKEN,
    b"two.json.json": TAKEN,
    b"x.reason.json": TAKEN,
    b"status.json": TAKEN,
    b"lease.json": TAKEN,
    b"-rf.json": TAKEN,
    b"--help.json": TAKEN,
    b" before.json": TAKEN,
    b"space in.json": TAKEN,
    b"dots...json": TAKEN,
    b"%2e%2e%2fx.json": TAKEN,
    b"up\\..\\x.json": TAKEN,
    b"c:x.json": TAKEN,
    b"$(id).json": TAKEN,
    b"`id`;&|.json": TAKEN,
    b"'\".json": TAKEN,
    b"*?[a].json": TAKEN,
    b"~root.json": TAKEN,
    b"#x#.json": TAKEN,
    b"line\nbreak.json": TAKEN,
    b"tab\t.json": TAKEN,
    b"bell\x07\x1b[2J.json": TAKEN,
    b"delete\x7f.json": TAKEN,
    b"c1\xc2\x85.json": TAKEN,
    "right\u202egnp.json".encode(): TAKEN,
    "zero\u200bwidth.json".encode(): TAKEN,
    "海报.json".encode(): TAKEN,
    "e\u0301.json".encode(): TAKEN,
    "é.json".encode(): TAKEN,
    "😀.json".encode(): TAKEN,
    b"nul.json": TAKEN,
    b"con.json": TAKEN,
    b"c-20261124T083015000000-0123456789abcdef~x.json": TAKEN,
    b"r-0123456789abcdef.json": TAKEN,
    b"n" * 195 + b".json": TAKEN,
    LONG: "bad_name",
    b"\xff\xfe.json": "bad_name",
    b"caf\xe9.json": "bad_name",
    b"surrogate\xed\xa0\x80.json": "bad_name",
    b".json": IGNORED,
    b".hidden.json": IGNORED,
    b"..\\x.json": IGNORED,
    b"..json": IGNORED,
    b"...json": IGNORED,
    b"behind.json ": IGNORED,
    b"behind.json.": IGNORED,
    b"behind.json~": IGNORED,
    b"behind.json\n": IGNORED,
    b"full\xef\xbc\x8ejson": IGNORED,
    b"json": IGNORED,
    b"x.jsonl": IGNORED,
    b"x.json5": IGNORED,
    b"x.json.part": IGNORED,
}


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_circular_link(path: Path) -> None:
    path.symlink_to(path.name)


def make_link_to_a_folder(path: Path) -> None:
    path.symlink_to("/")


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))


def make_device(path: Path) -> None:
    if os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
    else:
        os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_deep_folder(path: Path) -> None:
    (path / "/".join(["deep"] * 100)).mkdir(parents=True)


THINGS: tuple[Callable[[Path], None], ...] = (
    make_link, make_dangling_link, make_circular_link, make_link_to_a_folder, make_link_to_a_device, make_pipe,
    make_socket, make_device, make_folder, make_deep_folder,
)  # fmt: skip


def test_every_name_and_thing_finds_its_place(
    volume: Volume, simulator: Simulator, watch: StartWatcher, note: Note
) -> None:
    watcher = watch(simulator, settle_s=0.5)
    watcher.wait_for("comfyui_up")
    for name, outcome in NAMES.items():
        text = os.fsdecode(name)
        volume.drop(text, canvas())
        if outcome == IGNORED:
            volume.left.add(text)
            del volume.drops[text]
    for make in THINGS:
        make(volume.input / f"{make.__name__}.json")
        volume.note(f"{make.__name__}.json", b"")
    secret = volume.root / "staging" / "secret"
    secret.write_bytes(encode({"not": "a job"}))
    os.link(secret, volume.input / "hard-link.json")
    volume.note("hard-link.json", secret.read_bytes())
    expected = {shown(name): outcome for name, outcome in NAMES.items() if outcome != IGNORED}
    expected |= {f"{make.__name__}.json": "not_a_file" for make in THINGS} | {"hard-link.json": "not_a_job"}

    def found() -> dict[str, str]:
        return {
            shown(LONG) if (outcome, name[:3]) == ("bad_name", "nnn") else name: outcome
            for name, (outcome, _) in outcomes(volume).items()
        }

    eventually(lambda: len(found()) == len(expected), "all end")
    note(names=len(NAMES), things=len(THINGS) + 1)
    assert found() == expected
    assert (secret.stat().st_mode & 0o777, secret.read_bytes()) == (0o644, encode({"not": "a job"}))
    assert volume.left <= set(os.listdir(volume.input))
    del volume.drops[os.fsdecode(LONG)]  # it could not keep its name
    check_promises(volume, simulator, watchers=(watcher,))


def shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
