"""Documents on disk: JSON objects that carry `schema`. A newer program reads older ones; an older one leaves newer ones alone."""

import errno
from contextlib import suppress
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handoff.durable import read_file
from handoff.failures import EdgeError, Permanent

_LIMIT = 64 << 20  # bytes; our own files, so this only bounds the harm of a stranger's
OWN_FAULTS = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO})
"""Errors of `open` that are the file's own: it is closed to us, a link, or a socket. Any other is the installation's trouble."""


class UnreadableDocument(EdgeError):  # noqa: N818
    """A document of ours that is damaged, or of a newer version. It is left where it is."""


class DamagedDocument(UnreadableDocument):
    """Its bytes are no document of any version."""


class _Schema(BaseModel):
    schema_version: int = Field(alias="schema")


class Document(BaseModel):
    """Frozen; unknown keys of a newer minor version are dropped when read."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)
    newest: ClassVar[int] = 1
    schema_version: int = Field(default=1, alias="schema")

    def evolve(self, **changes: Any) -> Self:
        """A copy with these fields changed. The values are trusted: they come from this program."""
        return self.model_copy(update=changes)

    def to_bytes(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Raises UnreadableDocument."""
        try:
            document = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            cls._refuse_newer(data, where)
            raise DamagedDocument(f"{where} is damaged: {place}: {first['msg']}") from None
        if document.schema_version > cls.newest:
            cls._refuse_newer(data, where)
        return document

    @classmethod
    def _refuse_newer(cls, data: bytes, where: str) -> None:
        """Of a newer version any key may mean something else, so its other faults are none."""
        with suppress(ValidationError):
            schema = _Schema.model_validate_json(data).schema_version
            if schema > cls.newest:
                raise UnreadableDocument(f"{where} was written by a newer version (schema {schema})")

    @classmethod
    def read(cls, path: str) -> Self:
        """Raises UnreadableDocument, FileNotFoundError where there is none, and OSError for the disk's troubles."""
        try:
            data = read_file(path, _LIMIT)
        except Permanent as error:
            raise UnreadableDocument(str(error)) from None
        except OSError as error:
            if error.errno in OWN_FAULTS:
                raise UnreadableDocument(f"{path} cannot be read: {error.strerror}") from None
            raise
        return cls.from_bytes(data, path)

    @classmethod
    def find(cls, path: str) -> Self | None:
        """The document, or None where there is none. Raises UnreadableDocument, OSError."""
        try:
            return cls.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
