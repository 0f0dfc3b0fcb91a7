"""Breaks values and bytes, a little at a time, so that what comes out is still almost right."""

import random
from typing import Any

TEXTS = (
    "", " ", "\0", "..", "../../etc/passwd", "/etc/passwd", "a\nb", "\u202e", "%date%", "{{7*7}}", "1", "-1", "NaN", "null",
    "__proto__", "id", "prompt", "graph", "class_type", "inputs", "filename_prefix", "http://me:pw@127.0.0.1/?key=x",
    "data:image/png;base64,AAAA", "status.json", ".handoff/work/x", "x" * 5000, "😀", "\ufffe",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e300, 2**31, 2**53, 2**63, 10**19, -(10**19), [], {}, [[]], [None], {"": None},
    ["1", 0], ["1", -1], [1, 0], ["9", 1.5], ["404", 0], {"class_type": "EmptyImage", "inputs": {}}, {"nodes": []},
    {"message": "x", "type": 5}, {"filename": "a.png", "subfolder": "..", "type": "output"}, ["x"] * 300,
)  # fmt: skip
BYTES = (b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\\ud800", b"1e999", b"NaN", b"\x80", b"\n", b"0" * 50)  # fmt: skip


class Mutator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, value: Any) -> Any:
        """A JSON value like the given one, changed in one to four places."""
        for _ in range(self.random.randint(1, 4)):
            value = self._change(value)
        return value

    def data(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            start = self.random.randint(0, len(changed))
            end = min(len(changed), start + self.random.choice((0, 1, 1, 2, 8, 100)))
            match self.random.randrange(5):
                case 0:
                    changed[start:end] = b""
                case 1:
                    changed[start:start] = self.random.choice(BYTES)
                case 2:
                    changed[start:start] = changed[start:end] * self.random.choice((1, 2, 50))
                case 3 if start < len(changed):
                    changed[start] ^= 1 << self.random.randrange(8)
                case _:
                    changed[start:end] = self.random.choice(BYTES)
            if self.random.random() < 0.1:
                del changed[start:]
        return bytes(changed)

    def _change(self, value: Any) -> Any:
        """Walks down to some place in it; what was not changed is shared with the original, which stays as it was."""
        if not isinstance(value, dict | list) or not value or self.random.random() < 0.15:
            return self._other(value)
        place = self.random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        action = self.random.random()
        if isinstance(value, list):
            if action < 0.1:
                return [*value[:place], *value[place + 1 :]]
            if action < 0.2:
                return [*value, value[place]]
            return [*value[:place], self._change(value[place]), *value[place + 1 :]]
        if action < 0.08:
            return {key: inner for key, inner in value.items() if key != place}
        if action < 0.16:
            return {(self.random.choice(TEXTS) if key == place else key): inner for key, inner in value.items()}
        if action < 0.24:
            return {**value, self.random.choice(TEXTS): value[place]}
        return {**value, place: self._change(value[place])}

    def _other(self, value: Any) -> Any:
        match self.random.randrange(6):
            case 0:
                return self.random.choice(TEXTS)
            case 1 if isinstance(value, str):
                return value + self.random.choice(TEXTS)
            case 2 if isinstance(value, int) and not isinstance(value, bool):
                return value + self.random.choice((-1, 1, 10**6))
            case 3:
                return [value]
            case 4:
                return {self.random.choice(TEXTS): value}
            case _:
                return self.random.choice(VALUES)
