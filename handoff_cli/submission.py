"""`handoff submit`: from a command line to a job in the inbox. Everything that can be checked here is, before it gets there."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from handoff.decode import BYTES, JsonObject, JsonValue, decode
from handoff.durable import read_file
from handoff.failures import Failure, Permanent, Reason
from handoff.folders import Folders
from handoff.job import Job, parse_job
from handoff.settings import Settings
from handoff.spool.publisher import make_record, publish
from handoff_cli.exits import Exit, Stopped
from handoff_cli.following import show_now, wait
from handoff_cli.installation import make_installation, warn_of_standstill
from handoff_cli.local_pictures import find_local, upload
from handoff_cli.rendering import explain_failure, note
from workflows.catalogue import Catalogue, find_problems
from workflows.parameter import Kind, read_text
from workflows.template import Template


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for. `params` and `overrides` are texts NAME=VALUE."""

    workflow: str | None
    graph: str | None
    params: Sequence[str] = ()
    overrides: Sequence[str] = ()
    id: str | None = None
    priority: int | None = None
    queue_timeout_s: float | None = None
    run_timeout_s: float | None = None
    metadata: str | None = None

    @property
    def fields(self) -> JsonObject:
        """The job fields that were given. Raises Stopped."""
        for seconds in (self.queue_timeout_s, self.run_timeout_s):
            if seconds is not None and not isfinite(seconds):
                raise Stopped(Exit.USAGE, f"{seconds} is no number of seconds.")
        fields: JsonObject = {
            name: value
            for name in ("id", "priority", "queue_timeout_s", "run_timeout_s")
            if (value := getattr(self, name)) is not None
        }
        if self.overrides:
            fields["set"] = {name: _read_value(text) for name, text in _read_pairs("--set", self.overrides).items()}
        if self.metadata is not None:
            fields["metadata"] = _read_json(_encode(self.metadata), "--metadata")
        return fields


def submit(request: Request, *, waits: bool, wait_s: float | None, as_json: bool) -> Exit:
    """Raises Stopped, Failure, SettingsError, Unavailable; nothing was published then."""
    settings, folders = make_installation()
    catalogue = Catalogue(settings.workflows_dir)
    job = _make_job(request, settings, catalogue)
    if problems := find_problems(job, catalogue):
        raise Stopped(Exit.USAGE, "\n".join(explain_failure(problem, settings.language) for problem in problems))
    job = _upload_pictures(job, catalogue, folders)
    source = os.path.basename(request.graph) if request.graph is not None else None
    record = make_record(job, folders, owner="cli", source=source)
    if publish(folders, record) == "replay":
        note(f"{record.id} is known already, with the same content: nothing was submitted again.")
    elif waits:
        note(f"Submitted {record.id}.")
    warn_of_standstill(folders)
    if waits:
        return wait(folders, record.id, wait_s=wait_s, as_json=as_json)
    if not as_json:
        print(record.id)
        note(f"`handoff status {record.id} --wait` follows it, `handoff cancel {record.id}` stops it.")
        return Exit.DONE
    show_now(folders, record.id, as_json=True)
    return Exit.DONE


def _make_job(request: Request, settings: Settings, catalogue: Catalogue) -> Job:
    if request.graph is not None:
        if request.workflow is not None or request.params:
            raise Stopped(
                Exit.USAGE, "--graph takes a whole job: leave out WORKFLOW and -p, and change inputs with --set."
            )
        value = _read_job_file(request.graph)
        if request.fields:
            value = {**_with_fields(value, settings), **request.fields}
    else:
        if request.workflow is None:
            raise Stopped(
                Exit.USAGE, "Which workflow? `handoff workflows list` shows them; --graph FILE takes a graph."
            )
        template = catalogue.get(request.workflow)
        value = {"workflow": template.name, "params": _read_params(request.params, template), **request.fields}
    return parse_job(value, default_workflow=settings.default_workflow)


def _with_fields(value: JsonValue, settings: Settings) -> JsonObject:
    """The same job in a form that takes job fields: an exported graph takes none."""
    job = parse_job(value, default_workflow=settings.default_workflow)
    if job.graph is not None and job.body is job.graph:
        return {"graph": job.graph}
    return {**job.body, **({"id": job.id} if job.id is not None else {})}


def _read_params(texts: Sequence[str], template: Template) -> JsonObject:
    """Values typed by the template; what does not fit stays as it is, so that all problems are told together."""
    pairs = _read_pairs("-p", texts)
    known = template.parameters
    return {name: read_text(known[name], text) if name in known else text for name, text in pairs.items()}


def _read_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        _encode(text)
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Stopped(Exit.USAGE, f"{option} {text}: write NAME=VALUE.")
        if name in pairs:
            raise Stopped(Exit.USAGE, f"{option} {name} stands there twice.")
        pairs[name] = value
    return pairs


def _read_value(text: str) -> JsonValue:
    """JSON where it is some (7, true, "7"), else the text itself."""
    try:
        return decode(text.encode())
    except Failure:
        return text


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise Stopped(Exit.USAGE, f"{shown} is not UTF-8 text; the terminal's encoding may be another one.") from None


def _read_job_file(path: str) -> JsonValue:
    try:
        data = read_file(os.path.realpath(path), BYTES)
    except Permanent:
        raise Stopped(Exit.USAGE, f"{path} is no regular file, or larger than {BYTES} bytes.") from None
    except OSError as error:
        raise Stopped(Exit.USAGE, f"{path} cannot be read: {error.strerror}.") from None
    return _read_json(data, path)


def _read_json(data: bytes, where: str) -> JsonValue:
    try:
        return decode(data)
    except Failure as failure:
        if failure.reason is Reason.TRUNCATED:
            raise Stopped(Exit.USAGE, f"{where} ends in the middle; a brace or a quote is missing.") from None
        raise Stopped(Exit.USAGE, f"{where}: {explain_failure(failure, 'en')}") from None


def _upload_pictures(job: Job, catalogue: Catalogue, folders: Folders) -> Job:
    """The same job with each local file in a picture parameter replaced by its copy in `uploads/`."""
    if job.workflow is None or "params" not in job.body:
        return job
    template = catalogue.get(job.workflow)
    params = dict(job.params)
    for name, value in job.params.items():
        if template.parameters[name].kind not in {Kind.IMAGE, Kind.MASK}:
            continue
        path = find_local(str(value))
        if path is not None:
            params[name] = upload(path, folders)
    if params == job.params:
        return job
    body = {**job.body, "params": params}
    named = body if job.id is None else {**body, "id": job.id}
    return parse_job(named, default_workflow=job.workflow)
