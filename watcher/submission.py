"""From a claimed job to a prompt at ComfyUI: journal, then POST. Runs in a pool, on one job at a time each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from handoff import messages, state, timestamps
from handoff.failures import Failure, Reason, Unavailable
from handoff.graph import Graph
from handoff.spool.journal import Journal
from handoff.spool.record import Plan, Record
from handoff.spool.seat import Fenced, Seat
from handoff.status import ComfyUIEntry, StatusDocument
from watcher.capabilities import Capabilities, lacks
from watcher.comfyui import ComfyUI, NotArrived, Unclear
from watcher.graph import attempt_graph
from watcher.planning import settle_models


class Lacking(Exception):  # noqa: N818
    """Our ComfyUI cannot run the job as far as is known of it; nothing was journalled or sent."""

    def __init__(self, plan: Plan, failure: Failure) -> None:
        super().__init__(failure)
        self.plan = plan
        self.failure = failure


class NotPosted(Exception):  # noqa: N818
    """Journalled, and something went wrong before the POST, its cause: the same attempt may be sent again."""

    def __init__(self, record: Record) -> None:
        super().__init__(record.id)
        self.record = record


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of it, with the record and the document as they stand on disk now.

    `not_arrived`: provably nothing reached ComfyUI, the same attempt may be sent again. `unclear`: it may have it.
    `server_error`: it may have it, and said 500. `refused`: it has not, and never will. `cancelled`: a mark lay there.
    """

    record: Record
    document: StatusDocument
    outcome: Literal["accepted", "not_arrived", "unclear", "server_error", "refused", "cancelled"]
    trouble: Exception | None = None
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Submission:
    seat: Seat
    journal: Journal
    comfyui: ComfyUI
    language: messages.Language
    client_id: Callable[[], str]

    def send(self, record: Record, document: StatusDocument, capabilities: Capabilities, *, resend: bool) -> Sent:
        """Raises Failure, Lacking, Unavailable (nothing was journalled), NotPosted, Fenced.

        Once the record is on disk its attempt stays known to the caller, whatever happens: it could be sent twice else.
        """
        if not resend:
            plan = self.settle(record, capabilities)
            record = record.next_attempt(server=self.seat.server, at=timestamps.to_text(timestamps.now()), plan=plan)
            self.journal.write(record)
        try:
            graph, document = self._prepare(record, document, capabilities)
        except Fenced:
            raise
        except Exception as error:
            raise NotPosted(record) from error
        if self.journal.is_cancelled(record.id):
            return Sent(record=record, document=document, outcome="cancelled")
        sent = self._post(record, document, graph)
        if sent.outcome == "accepted":
            try:
                self.journal.publish_status(sent.document, record.token, durable_write=False)
            except Fenced:
                raise
            except Exception as error:  # noqa: BLE001 - it promises nothing and is published again with the progress
                return replace(sent, trouble=error)
        return sent

    def _prepare(
        self, record: Record, document: StatusDocument, capabilities: Capabilities
    ) -> tuple[Graph, StatusDocument]:
        assert record.job is not None
        graph, _, warnings = attempt_graph(record.job.graph, self.journal.make_work_folder(record))
        document = self._describe(record, document, capabilities, warnings)
        if not self.seat.held():  # saves GPU time; safety does not rest on it
            raise Fenced
        return graph, document

    def _post(self, record: Record, document: StatusDocument, graph: Graph) -> Sent:
        assert record.job is not None
        assert record.prompt_id is not None
        tag = {"id": record.id, "token": record.token, "attempt": record.attempt}
        try:
            self.comfyui.submit(
                record.prompt_id,
                graph,
                client_id=self.client_id(),
                extra_data={**record.job.extra_data, "handoff": tag},
            )
        except NotArrived as error:
            return Sent(record=record, document=document, outcome="not_arrived", trouble=error)
        except Unclear as error:
            outcome: Literal["unclear", "server_error"] = "unclear" if error.status is None else "server_error"
            return Sent(record=record, document=document, outcome=outcome, trouble=error)
        except Failure as failure:
            return Sent(record=record, document=document, outcome="refused", failure=failure)
        except Unavailable as error:  # it took the prompt under another id, and so would it the next
            wrong = Failure(Reason.COMFYUI_ERROR, problem=str(error))
            return Sent(record=record, document=document, outcome="refused", failure=wrong)
        except Exception as error:  # noqa: BLE001 - nobody foresaw it, so nobody knows how far the POST got
            return Sent(record=record, document=document, outcome="unclear", trouble=error)
        return Sent(record=record, document=document.follow(state.Event.SUBMITTED), outcome="accepted")

    def settle(self, record: Record, capabilities: Capabilities) -> Plan:
        """The plan with its models chosen. Raises Lacking."""
        assert record.job is not None
        try:
            plan = settle_models(record.job, capabilities, self.language)
        except Failure as failure:
            raise Lacking(record.job, failure) from None
        if missing := lacks(plan.graph, capabilities):
            raise Lacking(plan, Failure(Reason.WORKFLOW_UNAVAILABLE, lacks=", ".join(missing)))
        return plan

    def _describe(
        self,
        record: Record,
        document: StatusDocument,
        capabilities: Capabilities,
        warnings: list[tuple[str, dict[str, str | float]]],
    ) -> StatusDocument:
        assert record.job is not None
        lines = [*record.job.warnings, *document.warnings]
        lines += [messages.warn(key, self.language, **details) for key, details in warnings]
        return document.evolve(
            attempt=record.attempt,
            workflow=record.job.workflow,
            metadata=record.job.metadata,
            warnings=list(dict.fromkeys(lines)),
            comfyui=ComfyUIEntry(
                version=capabilities.version, prompt_id=record.prompt_id, simulated=capabilities.simulated
            ),
        )
