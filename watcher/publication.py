"""A job's results on their way out: verified, `saving`, mirrored, decided, filed. Owned by the decision thread.

The uploads are durable elsewhere: a job in `saving` has its outputs and their hashes in `status.json`. While the bucket
is away one job at a time finds out whether it is back; the others wait here and ComfyUI goes on drawing.
"""

import time
from collections.abc import Callable
from typing import Literal

from handoff import log, state, timestamps
from handoff.failures import EdgeError, Failure, Reason
from handoff.messages import Language
from handoff.status import StatusDocument, describe_failure
from watcher.courier import Courier
from watcher.delivery import Delivery
from watcher.live import Live, Phase
from watcher.outbox import Outbox
from watcher.tasks import Tasks


class Publication:
    """`on_filed` is called when nothing more is to be done for a job."""

    def __init__(
        self,
        tasks: Tasks,
        delivery: Delivery,
        courier: Courier,
        *,
        language: Language,
        on_filed: Callable[[Live], None],
    ) -> None:
        self._tasks = tasks
        self._delivery = delivery
        self._courier = courier
        self._language = language
        self._on_filed = on_filed
        self._outbox = Outbox()
        self._held_back: dict[str, Live] = {}
        self._log = log.get()

    @property
    def trouble(self) -> str | None:
        """What is wrong with the bucket."""
        return self._outbox.trouble

    def collect(self, live: Live) -> None:
        prompt, record, document = live.prompt, live.record, live.document
        assert prompt is not None
        self._tasks.run(live, "verify", lambda: self._delivery.collect(record, prompt, document), self._collected)

    def _collected(self, live: Live, document: StatusDocument) -> None:
        live.document, live.phase, live.prompt = document, Phase.MIRROR, None
        self._courier.tell(document)
        self.mirror(live)

    def put_job_document(self, live: Live) -> None:
        """`job.json` while ComfyUI draws; if it does not work now, `mirror` does it.

        Beside the job's own tasks: a slow upload may not keep ComfyUI's next step from being noticed.
        """
        if self._outbox.trouble is not None or live.job_document != "no":
            return
        live.job_document = "under way"

        def done(state: Literal["no", "put"]) -> None:
            live.job_document = state
            if live.phase in (Phase.MIRROR, Phase.CONCLUDE):  # it waited for this
                self._tasks.advance(live)

        record = live.record
        self._tasks.aside(
            "bucket", lambda: self._delivery.put_job_document(record), lambda _: done("put"), lambda: done("no")
        )

    def mirror(self, live: Live) -> None:
        if live.job_document == "under way":
            return
        if not self._outbox.may_try(live.token, time.monotonic()):
            self._held_back[live.token] = live
            return
        self._tasks.run(live, "bucket", lambda: self._mirror_and_conclude(live), self._concluded, self._not_mirrored)

    def _mirror_and_conclude(self, live: Live) -> None:
        """Three steps in one task, since somebody waits for the last: what is done stays done, whichever step fails."""
        self._delivery.mirror(live.record, live.document, job_document_put=live.job_document == "put")
        live.job_document = "put"
        live.document = self._delivery.renew_links(live.record, live.document)
        self._fix_end(live, state.Event.MIRRORED, None)
        self._decide_and_conclude(live)

    def _not_mirrored(self, live: Live, error: BaseException) -> None:
        self._held_back.pop(live.token, None)
        self._tasks.fail(live, error)
        if isinstance(error, Failure) and error.reason is Reason.OUTPUT_REFUSED:  # it answered
            self._bucket_works()

    def end(self, live: Live, event: state.Event, failure: Failure) -> None:
        """The job's end is known, and it is no success."""
        self._fix_end(live, event, failure)
        self.conclude(live)

    def _fix_end(self, live: Live, event: state.Event, failure: Failure | None) -> None:
        """Once: from here on the same bytes are published, however often."""
        error = None if failure is None else describe_failure(failure, self._language, id=live.id)
        live.document = live.document.finish(event, timestamps.now(), error=error)
        live.phase = Phase.CONCLUDE

    def conclude(self, live: Live) -> None:
        """The decision does not wait for the bucket; filing the record does."""
        if not live.decided:
            self._tasks.run(live, "files", lambda: self._delivery.decide(live.record, live.document), self._decided)
        elif live.job_document == "under way":
            return
        elif self._outbox.may_try(live.token, time.monotonic()):
            self._tasks.run(live, "bucket", lambda: self._decide_and_conclude(live), self._concluded)
        else:
            self._held_back[live.token] = live

    def _decided(self, live: Live, _: None) -> None:
        live.decided = True
        self._tasks.advance(live)

    def _decide_and_conclude(self, live: Live) -> None:
        if not live.decided:
            self._delivery.decide(live.record, live.document)
            live.decided = True  # a second decision must never be made, whatever the bucket does now
        self._delivery.conclude(live.record, live.document, job_document_put=live.job_document == "put")

    def _concluded(self, live: Live, _: None) -> None:
        self._courier.tell(live.document)
        self._log_job(live.document)
        self._held_back.pop(live.token, None)
        self._on_filed(live)
        self._bucket_works()

    def report_failure(self, live: Live, error: EdgeError) -> None:
        """The bucket did not do its part for this job."""
        if self._outbox.trouble is None:
            self._log.warning("bucket_away", error=str(error), hint="ComfyUI goes on drawing; results wait")
        self._tasks.later(live, self._outbox.report_failure(live.token, error, time.monotonic()))

    def give_way(self, live: Live) -> None:
        """The job has trouble of its own: another one finds out whether the bucket is back."""
        if self._outbox.give_way(live.token) and self._held_back:
            self._tasks.advance(self._held_back.pop(next(iter(self._held_back))))

    def _bucket_works(self) -> None:
        if self._outbox.report_success():
            self._log.info("bucket_back", waiting=len(self._held_back))
        waiting, self._held_back = self._held_back, {}
        for live in waiting.values():
            self._tasks.advance(live)

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
