"""Runs a program and refuses calls with which it changes files below a folder, as a disk in trouble does.

    python -m tests.machine.refuser ROOT LOG ERRNO POINT COUNT COMMAND…

From the call POINT on (named as in `tests.crash.tracer`: `rename input/* input/.handoff/w-*/c-* #1`) the next COUNT calls
fail that meet such a disk. The kernel does not do them, and the program gets the error. LOG tells of every call: what it
was, its path, and whether it was refused.
"""

import ctypes
import errno
import json
import os
import sys
from collections import Counter

from tests.crash.tracer import (
    CONT,
    GETREGS,
    ORIG_RAX,
    REGISTERS,
    Call,
    describe,
    ptrace,
    run_traced,
)

SETREGS, RAX = 13, 10
FREEING = {"unlink", "unlinkat", "rmdir", "truncate", "ftruncate", "chmod", "fchmod", "fchmodat"}
BY_DESCRIPTOR = {"write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate"}
FLUSHING = {"fsync", "fdatasync"}


def meets(name: str, error: int) -> bool:
    """Whether a disk with this trouble lets such a call fail."""
    match error:
        case errno.ENOSPC | errno.EDQUOT:
            return name not in FREEING
        case errno.EIO:
            return name in FLUSHING
        case errno.EACCES:
            return name not in BY_DESCRIPTOR
        case _:  # EROFS
            return name not in FLUSHING


def refuse(call: Call, error: int) -> None:
    """Its number becomes that of no call, so that the kernel returns what stands in the register for the result."""
    block = ctypes.create_string_buffer(REGISTERS.size)
    ptrace(GETREGS, call.tid, ctypes.addressof(block))
    registers = list(REGISTERS.unpack(block.raw))
    registers[ORIG_RAX], registers[RAX] = 2**64 - 1, 2**64 - error
    block = ctypes.create_string_buffer(REGISTERS.pack(*registers), REGISTERS.size)
    ptrace(SETREGS, call.tid, ctypes.addressof(block))


class Trouble:
    def __init__(self, root: str, log: int, error: int, point: str, count: int) -> None:
        self._root = root
        self._log = log
        self._error = error
        self._point = point
        self._left = count
        self._begun = False
        self._counts = Counter[str]()

    def meet(self, call: Call) -> None:
        text = describe(call, self._root)
        if text is None or not text.partition(" ")[2].startswith(("input/", "output/", "bucket/")):
            return
        self._counts[text] += 1
        point = f"{text} #{self._counts[text]}"
        self._begun = self._begun or point == self._point
        refused = self._begun and self._left > 0 and meets(call.name, self._error)
        if refused:
            self._left -= 1
            refuse(call, self._error)
        line = {"point": point, "path": call.paths()[-1], "refused": refused}
        os.write(self._log, f"{json.dumps(line)}\n".encode())


def main() -> int:
    root, log, error, point, count, *command = sys.argv[1:]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    trouble = Trouble(os.path.realpath(root) + "/", descriptor, int(error), point, int(count))

    def meet(tid: int, is_done: bool) -> int:
        assert not is_done
        trouble.meet(Call(tid))
        return CONT

    return run_traced(command, lambda _child: meet)


if __name__ == "__main__":
    sys.exit(main())
