"""What a traced program asked of the kernel: strace's log, read back as calls with their paths."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TRACED = "openat,creat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,sendto"
TEXT_BYTES = 1 << 16  # of what is written or sent; the tag of a prompt stands at its end

_LINE = re.compile(r"(\d+) +([\d.]+) (.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_UNFINISHED, _RESUMED = " <unfinished ...>", re.compile(r"<\.\.\. \w+ resumed>,? ?(.*)")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FOLDER = re.compile(r"(?:AT_FDCWD|\d+)(?:<([^>]*)>)?, $")
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """`began` and `ended`: numbers of lines. Only calls that succeeded are told of. `text`: what was written or sent."""

    name: str
    began: int
    ended: int
    pid: int
    paths: tuple[str, ...]
    text: str = ""
    makes: bool = False

    def __str__(self) -> str:
        return f"{self.name} {' → '.join(self.paths)}"


def wrap(log: Path) -> tuple[str, ...]:
    """To stand before a command, which keeps its process id."""
    return ("strace", "-D", "-f", "-y", "-ttt", "-s", str(TEXT_BYTES), "-o", str(log), "-e", f"trace={TRACED}")


def is_over(log: Path) -> bool:
    """Whether the whole life of the process is in the log."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return bool(lines) and lines[0].split()[0] in {line.split()[0] for line in lines if "+++ " in line}


def read_calls(*logs: Path) -> list[Call]:
    """Of programs that ran beside one another, in the order of time."""
    lines = [line for log in logs for line in log.read_text(errors="surrogateescape").splitlines()]
    return list(_read(sorted(lines, key=lambda line: float(line.split()[1]))))


def _read(lines: list[str]) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        found = _LINE.fullmatch(line)
        assert found, line
        pid, _, text = found.groups()
        if text.startswith("--- "):  # a signal
            continue
        if text.startswith("+++ "):  # its end
            begun.pop(pid, None)
            continue
        began = number
        if resumed := _RESUMED.fullmatch(text):
            if pid not in begun:  # a call that is not asked for
                continue
            began, start = begun.pop(pid)
            text = start + resumed[1]
        elif text.endswith(_UNFINISHED):
            begun[pid] = number, text.removesuffix(_UNFINISHED)
            continue
        call = _CALL.match(text)
        if call is None or call[3].startswith(("-", "?")):
            continue
        yield _parse(call[1], call[2], began, number, int(pid))


def _parse(name: str, arguments: str, began: int, ended: int, pid: int) -> Call:
    if name in ("write", "pwrite64", "sendto", "fsync", "fdatasync"):
        descriptor = _DESCRIPTOR.match(arguments)
        text = _TEXT.search(arguments)
        path = descriptor[1] if descriptor else ""
        return Call(name, began, ended, pid, (path.removesuffix(" (deleted)"),), text[1] if text else "")
    paths = []
    for text in _TEXT.finditer(arguments):
        folder = _FOLDER.search(arguments[: text.start()])
        at = f"{folder[1]}/" if folder and folder[1] and not text[1].startswith("/") else ""
        paths.append(at + text[1])
    return Call(name, began, ended, pid, tuple(paths), makes="O_CREAT" in arguments or "O_TRUNC" in arguments)
