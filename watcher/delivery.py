"""From a finished prompt to a final status: collect, verify, publish, mirror, decide. Runs in pools.

The order is the promise: objects before the decision, the decision before the bucket's `status.json`. Every step may be
done again at any time and gives the same bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handoff import durable, log, messages, state, timestamps
from handoff.decode import canonical
from handoff.failures import Failure, Permanent, Reason
from handoff.folders import Folders, work_folder
from handoff.graph import describe_node
from handoff.masking import mask_value
from handoff.site import Site
from handoff.spool.journal import Journal
from handoff.spool.record import Record
from handoff.spool.seat import Seat
from handoff.spool.suspicion import BESIDE, working_at
from handoff.status import OutputEntry, StatusDocument, seconds_between
from handoff.stores.contract import Store
from watcher.collector import Output, collect
from watcher.comfyui import ComfyUI
from watcher.graph import attempt_graph, masked_graph
from watcher.prompts import Prompt

JSON = "application/json"
FOREVER = "public, max-age=31536000, immutable"  # outputs: their keys are never used for other bytes
NEVER = "no-store"  # status and progress: pollers must see the newest


@dataclass(frozen=True, kw_only=True)
class Delivery:
    seat: Seat
    folders: Folders
    journal: Journal
    comfyui: ComfyUI
    store: Store
    site: Site
    prefix: str
    url_lifetime_s: int
    language: messages.Language

    def collect(self, record: Record, prompt: Prompt, document: StatusDocument, *, whole: bool) -> StatusDocument:
        """Verifies what ComfyUI listed and publishes it as `saving`. Raises Failure, Fenced, Unavailable, Transient.

        `whole`: it is known that ComfyUI took all of the graph.
        """
        assert record.job is not None
        assert record.journalled_at is not None
        if not whole and (dropped := self.comfyui.find_dropped(prompt.id, record.job.graph)):
            node = describe_node(record.job.graph, dropped[0])
            problem = f"it left out node {node.id} ({node.title or node.class_type}), whose inputs it did not accept"
            raise Failure(Reason.VALIDATION_FAILED, node=node, problem=problem)
        work = work_folder(record.token, record.attempt)
        graph, labels, _ = attempt_graph(record.job.graph, work)
        with working_at(self.seat, record.token):
            collected = collect(
                prompt,
                graph,
                job_id=record.id,
                output=self.folders.output,
                work=work,
                labels=labels,
                started=timestamps.from_text(record.journalled_at).timestamp(),
                comfyui=self.comfyui,
            )
        for output in collected.outputs:
            self.journal.publish_output(output.source, record.id, output.name, record.token, sha256=output.sha256)
        warnings = [messages.warn(key, self.language, **details) for key, details in collected.warnings]
        saving = document.follow(
            state.Event.GENERATED,
            progress=1.0,
            step=None,
            outputs=[self._describe(record, output) for output in collected.outputs],
            texts=collected.texts,
            warnings=list(dict.fromkeys([*document.warnings, *warnings])),
            **_times(document, prompt),
        ).with_links()
        self.journal.publish_status(saving, record.token, durable_write=True)
        return saving

    def _describe(self, record: Record, output: Output) -> OutputEntry:
        return OutputEntry(
            name=output.name,
            kind=output.kind,
            media_type=output.media_type,
            bytes=output.bytes,
            sha256=output.sha256,
            width=output.width,
            height=output.height,
            key=self._key(record, output.name),
            url=self._url(record, output.name),
        )

    def renew_links(self, record: Record, document: StatusDocument) -> StatusDocument:
        """Links as of now: since `saving` the bucket, its keys or a week may have changed."""
        outputs = [
            output.model_copy(update={"key": self._key(record, output.name), "url": self._url(record, output.name)})
            for output in document.outputs
        ]
        return document.evolve(outputs=outputs).with_links()

    def _key(self, record: Record, name: str) -> str:
        key = _key(record, name)
        return f"{self.prefix}/{key}" if self.prefix else key

    def _url(self, record: Record, name: str) -> str | None:
        return self.store.url(_key(record, name), expires_s=self.url_lifetime_s) if self.url_lifetime_s else None

    def mirror(self, record: Record, document: StatusDocument, *, job_document_put: bool) -> None:
        """Puts every object the final status will name.

        Raises Failure (OUTPUT_REFUSED, OUTPUT_MISSING: removed before it was in the bucket), Unavailable, Transient.
        """
        self.site.ensure()
        with working_at(self.seat, record.token):
            for output in document.outputs:
                self._put_output(record, output)
        if not job_document_put:
            self.put_job_document(record)

    def _put_output(self, record: Record, output: OutputEntry) -> None:
        path = Path(self.folders.job(record.id), output.name)
        if not path.is_file():
            raise Failure(Reason.OUTPUT_MISSING, file=output.name)
        try:
            self.store.put_file(
                _key(record, output.name),
                path,
                media_type=output.media_type,
                sha256=output.sha256,
                size=output.bytes,
                cache_control=FOREVER,
            )
        except Permanent as error:
            raise Failure(Reason.OUTPUT_REFUSED, file=output.name, problem=str(error), id=record.id) from error

    def put_job_document(self, record: Record) -> None:
        """`job.json`, here and in the bucket. Made from the record alone, so that two watchers write the same bytes."""
        self.site.ensure()
        with working_at(self.seat, f"{record.token}{BESIDE}"):
            data = describe_job(record)
            self.journal.publish_job_document(record.id, data, record.token)
            self.store.put_bytes(f"{record.id}/job.json", data, media_type=JSON, cache_control=NEVER)

    def decide(self, record: Record, document: StatusDocument) -> None:
        """The decision: from this rename on the job has ended like this. Raises Fenced, Unavailable."""
        if record.attempt == 0:  # nothing was journalled, so the reservation may not have reached the disk yet
            with self.seat.power(), durable.disk_errors(self.folders.ids):
                durable.sync_folder(self.folders.ids)
                durable.sync_folder(self.seat.path)
        self.journal.publish_status(document, record.token, durable_write=True)

    def conclude(self, record: Record, document: StatusDocument, *, job_document_put: bool) -> None:
        """After the decision: the same bytes into the bucket, then file the record. Raises Fenced, Unavailable, Transient."""
        self.site.ensure()
        if not job_document_put:
            try:
                self.put_job_document(record)
            except Failure as deadly:  # its end is decided already, and may not wait for this for ever
                log.get().error("no_job_document", id=record.id, error=str(deadly.details))
        try:
            data = durable.read_file(self.folders.status(record.id), 64 << 20)
        except FileNotFoundError:  # retention was faster: the job is over
            data = document.to_bytes()
        self.store.put_bytes(f"{record.id}/status.json", data, media_type=JSON, cache_control=NEVER)
        self.journal.finish(record, document.day)

    def put_progress(self, document: StatusDocument) -> None:
        """A courtesy to those who poll the bucket; never under the name of the final status, since it may land late."""
        self.site.ensure()
        self.store.put_bytes(
            f"{document.id}/progress.json", document.to_bytes(), media_type=JSON, cache_control=NEVER, durable=False
        )


def describe_job(record: Record) -> bytes:
    """The job as accepted, secrets masked. Nothing in it differs from attempt to attempt."""
    plan = record.job
    document: dict[str, Any] = {
        "schema": 1,
        "id": record.id,
        "sha256": record.sha256,
        "source": record.source,
        "owner": record.owner,
        "retry_of": record.retry_of,
        "received_at": record.received_at,
        "priority": record.priority,
    }
    if plan is not None:
        document |= {
            "workflow": plan.workflow,
            "workflow_sha256": plan.workflow_sha256,
            "params": {name: mask_value(name, value) for name, value in plan.params.items()},
            "queue_timeout_s": plan.queue_timeout_s,
            "run_timeout_s": plan.run_timeout_s,
            "metadata": plan.metadata,
            "graph": masked_graph(plan.graph),
        }
    return canonical(document) + b"\n"


def _key(record: Record, name: str) -> str:
    """From the second attempt on a folder of its own, so that a late put of the first cannot replace a byte."""
    return f"{record.id}/{name}" if record.attempt == 1 else f"{record.id}/attempt-{record.attempt}/{name}"


def _times(document: StatusDocument, prompt: Prompt) -> dict[str, Any]:
    """ComfyUI's own times are better than what was seen of it from outside."""
    if prompt.started_ms is None:
        return {"run_s": seconds_between(document.started_at, timestamps.to_text(timestamps.now()))}
    started_at = timestamps.to_text(timestamps.from_milliseconds(prompt.started_ms))
    times: dict[str, Any] = {
        "started_at": started_at,
        "queue_s": seconds_between(document.created_at, started_at),
    }
    if prompt.ended_ms is not None:
        times["gpu_s"] = round(max(0, prompt.ended_ms - prompt.started_ms) / 1000, 3)
        times["run_s"] = times["gpu_s"]
    return times
