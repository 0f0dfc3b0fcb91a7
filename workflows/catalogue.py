"""Finds workflows by name: the user's folder first, then the shipped ones. The only module here that touches files.

A template is read again when either of its files has changed, so none needs a restart. The last good version of a
template that is broken now is never used in its place: a job would be drawn with what its author has just taken back.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handoff.decode import excerpt
from handoff.failures import Failure, Reason, Unavailable
from handoff.graph import check_graph
from handoff.job import Job, apply_set
from handoff.messages import nearest
from workflows.filling import find_failures
from workflows.template import NAME, Broken, Template, find_name_problem, parse

SHIPPED = Path(__file__).parent
MAX_BYTES = 4 << 20  # of each file
_SUFFIXES = (".json", ".toml")
_CHANGING_NS = 2_000_000_000  # a file changed this lately may change again within the same tick of its clock
_OPERATORS = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}  # said of this file, which its owner can mend

_Sign = tuple[int, ...]
_Signature = Sequence[_Sign | None]


class _Unusable(Exception):  # noqa: N818
    """A file cannot be part of a template; the text says why."""


@dataclass(frozen=True)
class _Known:
    signature: _Signature
    entry: Template | Broken


class Catalogue:
    """The templates of one installation. Methods may be called from several threads.

    `user_dir` need not exist. It belongs to the operator: a link in it is followed, to a regular file of at most
    `MAX_BYTES`. Either of NAME.json and NAME.toml there hides the shipped workflow of that name, also while broken.
    """

    def __init__(self, user_dir: Path | None) -> None:
        self._folders = [SHIPPED] if user_dir is None else [user_dir, SHIPPED]
        self._known: dict[str, _Known] = {}

    def get(self, name: str) -> Template:
        """The template as its files are now. Raises Failure (unknown_workflow, broken_workflow) and Unavailable."""
        entry = self._find(name) if NAME.fullmatch(name) else None
        if entry is None:
            short = excerpt(name)
            known = filter(NAME.fullmatch, self._names())
            raise Failure(Reason.UNKNOWN_WORKFLOW, workflow=short, nearest=nearest(short, known))
        if isinstance(entry, Broken):
            more = f" (and {len(entry.problems) - 1} more)" if len(entry.problems) > 1 else ""
            raise Failure(Reason.BROKEN_WORKFLOW, workflow=name, problem=excerpt(entry.problems[0], 300) + more)
        return entry

    def list(self) -> Sequence[Template | Broken]:
        """Every workflow by name, the broken ones too. Raises Unavailable."""
        return [entry for name in sorted(self._names()) if (entry := self._find(name))]

    def _names(self) -> set[str]:
        names: set[str] = set()
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    pairs = [os.path.splitext(entry.name) for entry in entries]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise Unavailable(f"cannot list the workflows in {folder}: {error.strerror}") from error
            names |= {name for name, suffix in pairs if suffix in _SUFFIXES and not name.startswith(".")}
        return names

    def _find(self, name: str) -> Template | Broken | None:
        """None where no folder holds either file of this name."""
        if problem := find_name_problem(name):
            return Broken(name=excerpt(name), problems=(problem,))
        try:
            for folder in self._folders:
                paths = [f"{folder}/{name}{suffix}" for suffix in _SUFFIXES]
                signature = [_sign(path) for path in paths]
                if any(signature):
                    return self._load(name, paths, signature)
        except _Unusable as error:
            return Broken(name=name, problems=(str(error),))
        return None

    def _load(self, name: str, paths: Sequence[str], signature: _Signature) -> Template | Broken:
        for path, sign in zip(paths, signature, strict=True):
            if sign is None:
                raise _Unusable(f"{os.path.basename(path)} is missing beside the other file")
        known = self._known.get(name)
        if known is not None and known.signature == signature:
            return known.entry
        try:
            entry = parse(name, *(_read(path) for path in paths))
        except FileNotFoundError as error:
            raise _Unusable("a file was removed just now") from error
        if not _is_changing(signature):
            self._known[name] = _Known(signature, entry)
        return entry


def find_problems(job: Job, catalogue: Catalogue) -> list[Failure]:
    """Everything in which the watcher would find fault, as far as it can be told from here."""
    try:
        graph: Any = job.graph
        if job.workflow is not None:
            template = catalogue.get(job.workflow)
            if failures := find_failures(template, job.params):
                return failures
            graph = template.graph
        check_graph(graph)
        check_graph(apply_set(graph, job.overrides))
    except Failure as failure:
        return [failure]
    return []


def _sign(path: str) -> _Sign | None:
    """Differs whenever the file was changed or replaced; None where there is none."""
    try:
        with _errors_of(path):
            status = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):  # its author means it to be there: what it hides stays hidden
            raise _Unusable(f"{os.path.basename(path)} is a link to nothing") from None
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_changing(signature: _Signature) -> bool:
    return any(sign is not None and max(sign[-2:]) > time.time_ns() - _CHANGING_NS for sign in signature)


def _read(path: str) -> bytes:
    with _errors_of(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Unusable(f"{os.path.basename(path)} is no regular file")
            content = bytearray()
            while len(content) <= MAX_BYTES and (part := os.read(descriptor, MAX_BYTES + 1 - len(content))):
                content += part
        finally:
            os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise _Unusable(f"{os.path.basename(path)} is larger than {MAX_BYTES} bytes")
    return bytes(content)


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Lets FileNotFoundError through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    except OSError as error:
        if error.errno in _OPERATORS:
            raise _Unusable(f"{os.path.basename(path)} cannot be read: {error.strerror}") from error
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error
