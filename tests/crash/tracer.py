"""Runs a program, writes down every call with which it changes files below a folder, and kills it at one of them.

    python tracer.py ROOT LOG MOMENT POINT COMMAND…      MOMENT: entry, exit or never

`entry`: the call is not done; `exit`: it is, and that thread does nothing after it. A point is a call with the names in
it and which of its kind it is: `rename inbox/* input/.handoff/w-*/r-* #2`. It is counted over all threads of the
program, which is why this is not done with strace: its `inject=…:when=N` counts in every thread by itself, so the
calls of a thread that does fewer of them than another cannot be reached.

The kernel stops the program only at the calls asked for (seccomp), so it runs at full speed. x86-64 only.
"""

import ctypes
import os
import re
import signal
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

Meet = Callable[[int, bool], int | None]
"""Gets the thread and whether the call at which it stands is done. Says how it goes on: CONT, SYSCALL (to the end of this
call, and there again), or None for a child that it killed.
"""

CALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 82: "rename",
    83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod", 91: "fchmod",
    257: "openat", 258: "mkdirat", 263: "unlinkat", 264: "renameat", 265: "linkat", 268: "fchmodat", 316: "renameat2",
}  # fmt: skip
OPENAT = 257
BY_DESCRIPTOR = {"write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "fchmod"}
PATHS = {"link": (0, 1), "rename": (0, 1), "symlink": (1,)}
PATHS_AT = {"linkat": (1, 3), "renameat": (1, 3), "renameat2": (1, 3)}
"""Which arguments are paths; the one before each is the folder it is relative to."""

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
RET_ALLOW, RET_TRACE = 0x7FFF0000, 0x7FF00000
TRACEME, CONT, PEEKUSER, SYSCALL, SETOPTIONS, GETREGS = 0, 7, 3, 24, 0x4200, 12
OPTIONS = 0x100000 | 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x80  # EXITKILL, SYSGOOD, FORK, VFORK, CLONE, EXEC, SECCOMP
EVENT_SECCOMP = 7
WALL = 0x40000000
REGISTERS = struct.Struct("27Q")  # r15 … rip …: user_regs_struct
ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi, rsi, rdx, r10, r8, r9
ORIG_RAX = 15

VARIABLE = (  # what differs from run to run
    (re.compile(r"[0-9a-f]{16}"), "*"),
    (re.compile(r"\d{8}-\d{6}(-\w+)?"), "@"),
    (re.compile(r"\d+"), "#"),
    (re.compile(r"tmp[a-z0-9_]{8}"), "tmp@"),
)

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, data: object = None) -> None:
    if libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become_traced() -> None:
    """In the child: a filter that stops it at CALLS, at `openat` only where a file may be made or written."""
    jump, load, reply, jump_bits = 0x15, 0x20, 0x06, 0x45
    program = [(load, 0, 0, 0)]  # the call's number
    program += [(jump, 0, 3, OPENAT), (load, 0, 0, 16 + 2 * 8), (jump_bits, 0, 1, os.O_WRONLY | os.O_RDWR | os.O_CREAT)]
    program += [(reply, 0, 0, RET_TRACE), (load, 0, 0, 0)]
    others = [number for number in CALLS if number != OPENAT]
    program += [(jump, len(others) - at, 0, number) for at, number in enumerate(others)]
    program += [(reply, 0, 0, RET_ALLOW), (reply, 0, 0, RET_TRACE)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    block = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(block))
    ptrace(TRACEME, 0)
    os.kill(os.getpid(), signal.SIGSTOP)  # the parent sets its options now
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter):
        raise OSError(ctypes.get_errno(), "no seccomp here")


class Call:
    def __init__(self, tid: int) -> None:
        block = ctypes.create_string_buffer(REGISTERS.size)
        ptrace(GETREGS, tid, ctypes.addressof(block))
        registers = REGISTERS.unpack(block.raw)
        self.tid = tid
        self.name = CALLS[registers[ORIG_RAX]]
        self.arguments = [registers[at] for at in ARGUMENTS]

    def paths(self) -> list[str]:
        if self.name in BY_DESCRIPTOR:
            return [self._link(f"fd/{self._number(0)}")]
        if self.name.endswith(("at", "at2")):
            return [self._absolute(self._text(at), self._number(at - 1)) for at in PATHS_AT.get(self.name, (1,))]
        return [self._absolute(self._text(at)) for at in PATHS.get(self.name, (0,))]

    def _number(self, at: int) -> int:
        return ctypes.c_int32(self.arguments[at] & 0xFFFFFFFF).value

    def _text(self, at: int) -> str:
        with open(f"/proc/{self.tid}/mem", "rb", buffering=0) as memory:
            memory.seek(self.arguments[at])
            return os.fsdecode(memory.read(4096).split(b"\0")[0])

    def _absolute(self, path: str, folder: int = -100) -> str:
        return os.path.join(self._link("cwd" if folder == -100 else f"fd/{folder}"), path)

    def _link(self, name: str) -> str:
        try:
            return os.readlink(f"/proc/{self.tid}/{name}")
        except OSError:
            return "?"


def describe(call: Call, root: str) -> str | None:
    """None: it changes nothing below `root`."""
    paths = call.paths()
    if not any(path.startswith(root) for path in paths):
        return None
    text = " ".join([call.name, *(path.removeprefix(root).removesuffix(" (deleted)") for path in paths)])
    for pattern, replacement in VARIABLE:
        text = pattern.sub(replacement, text)
    return text


def follow(child: int, meet: Meet) -> int:
    """To the child's end; its exit status."""
    os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, lambda number, _frame: os.kill(child, number))
    ptrace(SETOPTIONS, child, OPTIONS)
    ptrace(CONT, child)
    while True:
        tid, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            if tid == child:
                return os.waitstatus_to_exitcode(status)
            continue
        stopped_by, event = os.WSTOPSIG(status), status >> 16
        is_done = event == 0 and stopped_by == signal.SIGTRAP | 0x80
        passed_on = stopped_by if event == 0 and not is_done and stopped_by != signal.SIGSTOP else 0
        with suppress(ProcessLookupError):
            request = meet(tid, is_done) if event == EVENT_SECCOMP or is_done else CONT
            if request is not None:
                ptrace(request, tid, passed_on)


def run_traced(command: Sequence[str], make_meet: Callable[[int], Meet]) -> int:
    """Starts the command, traced; `make_meet` gets its pid. The exit status as a shell gives it."""
    child = os.fork()
    if child == 0:
        become_traced()
        os.execvp(command[0], list(command))
    status = follow(child, make_meet(child))
    return 128 - status if status < 0 else status


class Killer:
    """Writes down every call, and kills at one of them."""

    def __init__(self, child: int, root: str, log: int, moment: str, point: str) -> None:
        self._child = child
        self._root = root
        self._log = log
        self._moment = moment
        self._point = point
        self._counts = Counter[str]()

    def meet(self, tid: int, is_done: bool) -> int | None:
        found = None if is_done else self._note(Call(tid))
        if not is_done and found != self._point:
            return CONT
        if not is_done and self._moment == "exit":
            return SYSCALL
        os.kill(self._child, signal.SIGKILL)
        return None

    def _note(self, call: Call) -> str | None:
        text = describe(call, self._root)
        if text is None:
            return None
        self._counts[text] += 1
        os.write(self._log, f"{text} #{self._counts[text]}\n".encode())
        return f"{text} #{self._counts[text]}"


def main() -> int:
    root, log, moment, point, *command = sys.argv[1:]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    return run_traced(
        command, lambda child: Killer(child, os.path.realpath(root) + "/", descriptor, moment, point).meet
    )


if __name__ == "__main__":
    sys.exit(main())
