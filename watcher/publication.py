"""A job's results on their way out: verified, `saving`, mirrored, decided, filed. Owned by the decision thread.

The uploads are durable elsewhere: a job in `saving` has its outputs and their hashes in `status.json`. While the bucket
is away one job at a time finds out whether it is back, and ComfyUI goes on drawing. The others are put away: only their
tokens stay in memory, and they go on as after a restart, from the disk. So an outage may last as long as it wants.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from handoff import log, state, timestamps
from handoff.failures import EdgeError, Failure, Reason
from handoff.messages import Language
from handoff.spool.record import Record
from handoff.status import StatusDocument, describe_failure
from watcher.courier import Courier
from watcher.delivery import Delivery
from watcher.live import Live, Phase
from watcher.loop import Loop
from watcher.outbox import Outbox
from watcher.tasks import Tasks

EARLY = 4  # uploads of `job.json` at once beside what ComfyUI does; they hold whole records
RECALL_S = 10.0  # until a job that could not be read again is tried once more


@dataclass(kw_only=True)
class _Way:
    """How far one task got with a job. It is the pool's until the task is back, also with an error; `Live` is never."""

    document: StatusDocument
    job_document_put: bool
    ended: bool = False
    """The document is final."""
    decided: bool = False


class Publication:
    """`forget` is called when a job is filed or put away: it is in memory no longer. `recall` brings one that was put away
    back, by its token.
    """

    def __init__(
        self,
        loop: Loop,
        tasks: Tasks,
        delivery: Delivery,
        courier: Courier,
        *,
        language: Language,
        forget: Callable[[Live], None],
        recall: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._tasks = tasks
        self._delivery = delivery
        self._courier = courier
        self._language = language
        self._forget = forget
        self._recall = recall
        self._outbox = Outbox()
        self._early = 0
        self._log = log.get()

    @property
    def trouble(self) -> str | None:
        """What is wrong with the bucket."""
        return self._outbox.trouble

    def __len__(self) -> int:
        """How many jobs are put away."""
        return len(self._outbox)

    def __contains__(self, token: str) -> bool:
        """Whether the job is put away, or on its way back: it is gone on with from here."""
        return token in self._outbox

    def collect(self, live: Live) -> None:
        prompt, record, document, whole = live.prompt, live.record, live.document, live.attempt.answered
        assert prompt is not None
        self._tasks.run(
            live, "verify", lambda: self._delivery.collect(record, prompt, document, whole=whole), self._collected
        )

    def _collected(self, live: Live, document: StatusDocument) -> None:
        live.document, live.phase, live.prompt = document, Phase.MIRROR, None
        self._courier.tell(document)
        self._tasks.advance(live)

    def put_job_document(self, live: Live) -> None:
        """`job.json` while ComfyUI draws; if it does not work now, `mirror` does it.

        Beside the job's own tasks: a slow upload may not keep ComfyUI's next step from being noticed.
        """
        if self._outbox.trouble is not None or live.job_document != "no" or self._early >= EARLY:
            return
        live.job_document = "under way"
        self._early += 1

        def done(state: Literal["no", "put"]) -> None:
            self._early -= 1
            live.job_document = state
            if live.phase in (Phase.MIRROR, Phase.CONCLUDE):  # it waited for this
                self._tasks.advance(live)

        record = live.record
        self._tasks.aside(
            "bucket", lambda: self._delivery.put_job_document(record), lambda _: done("put"), lambda: done("no")
        )

    def mirror(self, live: Live) -> None:
        if live.job_document == "under way" or not self._may_go_out(live):
            return
        record, way = live.record, _Way(document=live.document, job_document_put=live.job_document == "put")
        self._tasks.run(
            live,
            "bucket",
            lambda: self._mirror_and_conclude(record, way),
            lambda live, _: self._concluded(live, way.document),
            lambda live, error: self._not_mirrored(live, way, error),
        )

    def _may_go_out(self, live: Live) -> bool:
        """Else the job is put away. What it is now must be on the disk: `saving`, or the decision."""
        if self._outbox.may_go(live.token, time.monotonic()):
            return True
        self._forget(live)
        return False

    def _mirror_and_conclude(self, record: Record, way: _Way) -> None:
        """In a pool. Three steps in one task, since somebody waits for the last: what is done stays done, whichever fails."""
        self._delivery.mirror(record, way.document, job_document_put=way.job_document_put)
        way.job_document_put = True
        renewed = self._delivery.renew_links(record, way.document)
        way.document, way.ended = renewed.finish(state.Event.MIRRORED, timestamps.now()), True
        self._delivery.decide(record, way.document)
        way.decided = True
        self._delivery.conclude(record, way.document, job_document_put=True)

    def _not_mirrored(self, live: Live, way: _Way, error: BaseException) -> None:
        """Above all: a second decision must never be made, whatever the bucket does now."""
        live.document, live.decided = way.document, way.decided
        live.job_document = "put" if way.job_document_put else "no"
        if way.ended:
            live.phase = Phase.CONCLUDE
        self._tasks.fail(live, error)
        if isinstance(error, Failure) and error.reason is Reason.OUTPUT_REFUSED:  # it answered
            self._bucket_works(live)

    def end(self, live: Live, event: state.Event, failure: Failure) -> None:
        """The job's end is known, and it is no success. It is fixed once: from here on the same bytes are published, however often."""
        live.document, live.phase = self._end_without(live.document, event, failure), Phase.CONCLUDE
        self._tasks.advance(live)

    def give_up(self, record: Record, document: StatusDocument, failure: Failure) -> StatusDocument:
        """In a pool, for a job that is not live: decides that it failed."""
        document = self._end_without(document, state.Event.FAILED, failure)
        self._delivery.decide(record, document)
        return document

    def _end_without(self, document: StatusDocument, event: state.Event, failure: Failure) -> StatusDocument:
        """A job without success names no output: not all are there."""
        error = describe_failure(failure, self._language, id=document.id)
        return document.evolve(outputs=[]).with_links().finish(event, timestamps.now(), error=error)

    def conclude(self, live: Live) -> None:
        """The decision does not wait for the bucket; filing the record does."""
        record, document, put = live.record, live.document, live.job_document == "put"
        if not live.decided:
            self._tasks.run(live, "files", lambda: self._delivery.decide(record, document), self._decided)
        elif live.job_document != "under way" and self._may_go_out(live):
            self._tasks.run(
                live,
                "bucket",
                lambda: self._delivery.conclude(record, document, job_document_put=put),
                lambda live, _: self._concluded(live, document),
            )

    def _decided(self, live: Live, _: None) -> None:
        live.decided = True
        self._tasks.advance(live)

    def _concluded(self, live: Live, document: StatusDocument) -> None:
        self._courier.tell(document)
        self._log_job(document)
        self._forget(live)
        self._bucket_works(live)

    def report_failure(self, live: Live, error: EdgeError) -> None:
        """The bucket did not do its part for this job: it is put away like the others."""
        if self._outbox.trouble is None:
            self._log.warning("bucket_away", error=str(error), hint="ComfyUI goes on drawing; results wait")
        self._forget(live)
        self._loop.after(self._outbox.report_failure(live.token, error, time.monotonic()), self._go_on)

    def give_way(self, token: str) -> None:
        """The job has trouble of its own, or is over: another one finds out whether the bucket is back."""
        self._outbox.leave(token)
        self._go_on()

    def put_back(self, token: str) -> None:
        """It could not be recalled now: the disk has trouble."""
        self._outbox.put_away(token)
        self._loop.after(RECALL_S, self._go_on)

    def _bucket_works(self, live: Live) -> None:
        if self._outbox.report_success(live.token):
            self._log.info("bucket_back", waiting=len(self._outbox))
        self._go_on()

    def _go_on(self) -> None:
        """Whenever one has come back, or it is time to try again: as many go out as may."""
        while (token := self._outbox.call_back(time.monotonic())) is not None:
            self._recall(token)

    def _log_job(self, document: StatusDocument) -> None:
        """The canonical line: all that is worth knowing of a job, once, at its end."""
        error = document.error
        node = None if error is None or error.node is None else error.node
        self._log.info(
            "job",
            id=document.id,
            status=document.status,
            workflow=document.workflow,
            attempts=document.attempt,
            queue_s=document.queue_s,
            run_s=document.run_s,
            save_s=document.save_s,
            outputs=len(document.outputs),
            bytes=sum(output.bytes for output in document.outputs),
            **({} if error is None else {"reason": error.reason, "message": error.message}),
            **({} if node is None else {"node": f"{node.id} {node.title or node.class_type}"}),
        )
