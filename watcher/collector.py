"""From a prompt that ComfyUI calls a success to outputs that are proven: every listed file is there, whole and of this attempt.

`success` alone proves nothing: ComfyUI lists files that are long gone, and writes in place. File names and contents
are foreign: paths are opened below the output folder step by step without following links, and nothing is decoded.
"""

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from handoff.failures import Failure, Reason, Unavailable
from handoff.folders import FOLDER_MODE
from handoff.graph import Graph, describe_node
from handoff.status import Kind, TextEntry
from watcher.comfyui import ComfyUI
from watcher.graph import DEFAULT_LABEL, Warnings, node_order, secrets_of
from watcher.media import ENDS, Broken, examine, fitting_extension, own_extension
from watcher.prompts import Prompt

CLOCK_TOLERANCE_S = 2.0  # file times come in coarse steps, and from another clock on network volumes
PREVIEW_LIMIT = 512 << 20  # bytes of one preview
TEXT_LIMIT = 64 << 10  # bytes of one text: all texts stand in the status document
MAX_TEXTS = 64
MAX_NODE_ID = 200  # characters; what is named in a status document
PREVIEW_LABEL = "preview"

_READ_SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OWN_FOLDER = ".handoff/"
_TAKEN_NAMES = ("status.json", "job.json", "progress.json")  # lie beside the outputs, here or in the bucket


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file as ComfyUI lists it. Nothing about it is true yet."""

    node: str
    subfolder: str
    filename: str

    @property
    def path(self) -> str:
        """Relative to ComfyUI's folder, unless a hostile name says otherwise; empty and `.` parts are dropped."""
        joined = f"{self.subfolder}/{self.filename}" if self.subfolder else self.filename
        parts = "/".join(part for part in joined.split("/") if part not in ("", "."))
        return f"/{parts}" if joined.startswith("/") else parts

    @property
    def shown(self) -> str:
        """For messages: cut, and without what UTF-8 cannot say."""
        return self.path.encode("utf-8", "replace").decode()[:200]


@dataclass(frozen=True, kw_only=True)
class Listing:
    files: list[Listed]
    previews: list[Listed]
    texts: list[TextEntry]
    warnings: Warnings


@dataclass(frozen=True, kw_only=True)
class Output:
    """A verified file. `source` is where it lies now, flushed to the disk. Width and height in pixels, for pictures."""

    name: str
    node: str
    source: str
    kind: Kind
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, kw_only=True)
class Collected:
    outputs: list[Output]
    texts: list[TextEntry]
    warnings: Warnings


def collect(
    prompt: Prompt,
    graph: Graph,
    *,
    job_id: str,
    output: str,
    work: str,
    labels: Mapping[str, str],
    started: float,
    comfyui: ComfyUI,
) -> Collected:
    """The outputs of a succeeded prompt, named for `output/<job_id>/`; linking them there is the caller's.

    `output` is ComfyUI's output folder, `work` the attempt's own folder relative to it, `labels` as `attempt_graph`
    gave them, `started` when the attempt was journalled (seconds since 1970).
    Raises Failure NO_OUTPUTS, OUTPUT_MISSING, OUTPUT_BROKEN, with the node, and edge errors.
    """
    listing = listed(prompt.outputs)
    files, warnings, default_label = listing.files, list(listing.warnings), DEFAULT_LABEL
    if not files and listing.previews:
        # At once, since ComfyUI empties its temp folder at every start.
        files = [_fetch_preview(file, n, graph, output, work, comfyui) for n, file in enumerate(listing.previews, 1)]
        warnings.append(("previews", {}))
        default_label = PREVIEW_LABEL
    if not files and not listing.texts:
        raise Failure(Reason.NO_OUTPUTS)
    secrets = [secret.encode() for secret in secrets_of(graph)]
    verified: list[Output] = []
    for file in files:
        is_own = file.path.startswith(f"{work}/")
        with _blame(graph, file.node):
            if not is_own and file.path.startswith(_OWN_FOLDER):
                raise _broken(file, "it belongs to another job")
            made, tells = _verify(
                file, output, not_before=0.0 if is_own else started - CLOCK_TOLERANCE_S, secrets=secrets
            )
        verified.append(made)
        if not is_own:
            warnings.append(("elsewhere", {"file": file.shown}))
        if tells:
            warnings.append(("holds_secret", {"file": file.shown}))
    marked = [
        (labels.get(file.node, default_label), file.node, fitting_extension(file.filename, made.media_type))
        for file, made in zip(files, verified, strict=True)
    ]
    names = name_outputs(job_id, marked)
    outputs = [replace(made, name=name) for made, name in zip(verified, names, strict=True)]
    return Collected(outputs=outputs, texts=listing.texts, warnings=warnings)


def listed(outputs: Mapping[str, Any]) -> Listing:
    """Every file and text in ComfyUI's listing, in the order of the nodes' ids. Pure.

    Nodes choose their keys freely (a video stands under `images`), so each list is looked through; a file listed twice
    is one. What has no `filename` and is no text is left out; texts and nodes beyond the bounds leave a warning.
    """
    files: dict[str, Listed] = {}
    previews: dict[str, Listed] = {}
    texts: list[TextEntry] = []
    texts_left_out = nodes_left_out = 0
    warnings: Warnings = []
    for node, listing in sorted(outputs.items(), key=lambda item: node_order(item[0])):
        if not isinstance(listing, Mapping):
            continue
        if len(node) > MAX_NODE_ID:
            nodes_left_out += 1
            continue
        for key, items in listing.items():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, str) and key == "text":
                    if len(texts) == MAX_TEXTS:
                        texts_left_out += 1
                        continue
                    text, is_cut = _cut(item)
                    texts.append(TextEntry(node=node, text=text))
                    if is_cut:
                        warnings.append(("text_cut", {"node": node, "bytes": TEXT_LIMIT}))
                elif isinstance(item, Mapping) and (file := _read_listed(node, item)):
                    folder = item.get("type", "output")
                    kept = files if folder == "output" else previews if folder == "temp" else None
                    if kept is not None:
                        kept.setdefault(file.path, file)
    if texts_left_out:
        warnings.append(("texts_left_out", {"kept": MAX_TEXTS, "count": texts_left_out}))
    if nodes_left_out:
        warnings.append(("nodes_left_out", {"limit": MAX_NODE_ID, "count": nodes_left_out}))
    return Listing(files=list(files.values()), previews=list(previews.values()), texts=texts, warnings=warnings)


def name_outputs(job_id: str, marked: list[tuple[str, str, str]]) -> list[str]:
    """`<id>[-<label>][-<n>].<ext>` for each (label, node, extension). Pure.

    The label is left out where one node saved, the number where its label has one file. Unique also where upper and
    lower case are the same.
    """
    is_alone = len({node for _, node, _ in marked}) == 1
    stems = [job_id if is_alone else f"{job_id}-{label}" for label, _, _ in marked]
    times = Counter(stem.casefold() for stem in stems)
    numbers: Counter[str] = Counter()
    taken = set(_TAKEN_NAMES)
    names: list[str] = []
    for stem, (_, _, extension) in zip(stems, marked, strict=True):
        key = stem.casefold()
        name = f"{stem}.{extension}"
        if times[key] > 1 or name.casefold() in taken:
            name = _number(stem, extension, numbers, taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def _cut(text: str) -> tuple[str, bool]:
    data = text.encode("utf-8", "replace")
    return data[:TEXT_LIMIT].decode("utf-8", "ignore"), len(data) > TEXT_LIMIT


def _read_listed(node: str, item: Mapping[str, Any]) -> Listed | None:
    filename, subfolder = item.get("filename"), item.get("subfolder") or ""
    if not isinstance(filename, str) or not filename or not isinstance(subfolder, str):
        return None
    return Listed(node=node, subfolder=subfolder, filename=filename)


def _number(stem: str, extension: str, numbers: Counter[str], taken: set[str]) -> str:
    while True:
        numbers[stem.casefold()] += 1
        name = f"{stem}-{numbers[stem.casefold()]}.{extension}"
        if name.casefold() not in taken:
            return name


def _verify(file: Listed, output: str, *, not_before: float, secrets: list[bytes]) -> tuple[Output, bool]:
    """Reads the file once, from the first byte to the last. It gets its name later, when all are known.

    Also whether one of the secrets stands in it, as plain text.
    """
    overlap = max(map(len, secrets), default=0)
    with _unavailable(f"cannot read {file.shown} in {output}"), _open_below(output, file) as stream:
        if os.fstat(stream.fileno()).st_mtime < not_before:
            raise _broken(file, "it is older than this job")
        digest, head, tail, size, tells = hashlib.sha256(), b"", b"", 0, False
        while part := stream.read(1 << 20):
            digest.update(part)
            tells = tells or any(secret in tail + part for secret in secrets)
            head = head or part[:ENDS]
            tail = (tail + part)[-max(ENDS, overlap) :]
            size += len(part)
        _flush(stream.fileno())
        try:
            media = examine(stream, file.filename, head=head, tail=tail[-ENDS:], size=size)
        except Broken as error:
            raise _broken(file, str(error)) from None
    made = Output(
        name="",
        node=file.node,
        source=f"{output}/{file.path}",
        kind=media.kind,
        media_type=media.media_type,
        bytes=size,
        sha256=digest.hexdigest(),
        width=media.width,
        height=media.height,
    )
    return made, tells


def _flush(descriptor: int) -> None:
    """Linux reports a failed write once and then takes the pages for written: the next fsync would succeed without them.

    The same bytes written over themselves make it try again. Not promised where ComfyUI's file may not be written to.
    """
    try:
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError), open(f"/proc/self/fd/{descriptor}", "r+b", buffering=0) as file:
            while part := os.pread(file.fileno(), 1 << 20, file.tell()):
                file.write(part)
        raise


def _open_below(output: str, file: Listed) -> BinaryIO:
    """A regular file, opened without following a link and without waiting for the other end of a pipe."""
    path = file.path
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or "\0" in path:
        raise _broken(file, "its name leads out of the output folder")
    try:
        folder = _open_folder(output, parts[:-1])
        try:
            descriptor = os.open(parts[-1], _READ_SAFELY, dir_fd=folder)
        finally:
            os.close(folder)
    except UnicodeEncodeError:
        raise _broken(file, "its name is no text") from None
    except OSError as error:
        if error.errno == errno.ENOENT and os.path.isdir(output):
            raise Failure(Reason.OUTPUT_MISSING, file=file.shown) from None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _broken(file, "it is a link or lies behind one") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR):
            raise _broken(file, f"it cannot be opened ({error.strerror})") from None
        raise Unavailable(f"cannot open {file.shown} in {output}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _broken(file, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def _open_folder(root: str, parts: list[str], *, make: bool = False) -> int:
    """Follows no link below `root`; with `make`, folders that are not there are made."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        outer = descriptor
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, FOLDER_MODE, dir_fd=outer)
            descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer)
        finally:
            os.close(outer)
    return descriptor


def _fetch_preview(preview: Listed, number: int, graph: Graph, output: str, work: str, comfyui: ComfyUI) -> Listed:
    """Copies a preview into the attempt's folder; what an earlier try left there is replaced."""
    extension = own_extension(preview.filename) or "bin"
    fetched = Listed(node=preview.node, subfolder=work, filename=f"preview-{number}.{extension}")
    with _blame(graph, preview.node), _unavailable(f"cannot write {fetched.path} in {output}"):
        folder = _open_folder(output, work.split("/"), make=True)
        try:
            with suppress(FileNotFoundError):
                os.unlink(fetched.filename, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(fetched.filename, flags, 0o664, dir_fd=folder), "wb") as copy:
                comfyui.view(preview.filename, preview.subfolder, "temp", copy, PREVIEW_LIMIT)
        finally:
            os.close(folder)
    return fetched


@contextmanager
def _blame(graph: Graph, node: str) -> Iterator[None]:
    """Failures from inside name the node whose output it was."""
    try:
        yield
    except Failure as failure:
        raise Failure(failure.reason, node=describe_node(graph, node), **failure.details) from None


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    """Errors of the disk are the operator's, not the job's."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{what}: {error.strerror or error}") from error


def _broken(file: Listed, problem: str) -> Failure:
    return Failure(Reason.OUTPUT_BROKEN, file=file.shown, problem=problem)
