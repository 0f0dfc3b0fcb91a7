"""Malformed and malicious job files, by class: `corpus/<class>.toml` holds each as a line `name = [outcome, content]`.

Content is a text, or a list of texts and of tables: `{ hex }`, `{ repeat, times }`, `{ encode, text }`, `{ part }` (one of
the file's own `[parts]`). The outcome is the reason for which the file is refused, or what becomes of the job.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

RUN = {"succeeded": "succeeded", "validation_failed": "failed", "workflow_unavailable": "failed"}
"""Outcomes of files that are taken for jobs, and the final status of each; every other outcome refuses the file."""


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    outcome: str
    content: Any
    parts: dict[str, str]

    @property
    def file_name(self) -> str:
        return f"{self.kind}--{self.name}.json"

    @cached_property
    def data(self) -> bytes:
        pieces = self.content if isinstance(self.content, list) else [self.content]
        return b"".join(map(self._spell, pieces))

    def _spell(self, piece: Any) -> bytes:
        match piece:
            case str():
                return piece.encode()
            case {"hex": digits}:
                return bytes.fromhex(digits)
            case {"repeat": text, "times": times}:
                repeated: str = text * times
                return repeated.encode()
            case {"encode": encoding, "text": text}:
                encoded: bytes = text.encode(encoding)
                return encoded
            case {"part": name}:
                return self.parts[name].encode()
        raise ValueError(f"{self.file_name}: {piece!r}")


def read_corpus() -> list[Case]:
    return list(_read())


def _read() -> Iterator[Case]:
    for path in sorted(Path(__file__).with_name("corpus").glob("*.toml")):
        document = tomllib.loads(path.read_text("utf-8"))
        for name, (outcome, content) in document["cases"].items():
            yield Case(path.stem, name, outcome, content, document.get("parts", {}))
