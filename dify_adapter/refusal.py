"""What is not done, and with which HTTP status that is said. Pure."""

from collections.abc import Mapping

from handoff.failures import Failure, Reason

UNPROCESSABLE = 422
STATUS: Mapping[Reason, int] = {
    Reason.BAD_BODY: 400,
    Reason.UNAUTHORIZED: 401,
    Reason.FORBIDDEN: 403,
    Reason.GRAPHS_NOT_ALLOWED: 403,
    Reason.NOT_FOUND: 404,
    Reason.UNKNOWN_ID: 404,
    Reason.UNKNOWN_OUTPUT: 404,
    Reason.UNKNOWN_WORKFLOW: 404,
    Reason.METHOD_NOT_ALLOWED: 405,
    Reason.ID_TAKEN: 409,
    Reason.NOT_RETRYABLE: 409,
    Reason.TOO_LARGE: 413,
    Reason.TOO_MANY_REQUESTS: 429,
    Reason.TOO_MANY_JOBS: 429,
    Reason.INTERNAL_ERROR: 500,
    Reason.UNAVAILABLE: 503,
}
"""Every other reason is a fault of what was sent: 422."""


class Refused(Exception):  # noqa: N818 - a decision, no fault of the program
    """A request is not done, for these reasons; the first one decides the status, unless one is given."""

    def __init__(self, *failures: Failure, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(*failures)
        self.failures = failures
        self.status = status or STATUS.get(failures[0].reason, UNPROCESSABLE)
        self.headers = dict(headers or {})


def unavailable(problem: str) -> Refused:
    return Refused(Failure(Reason.UNAVAILABLE, problem=problem), headers={"Retry-After": "5"})


def unknown_id(id: str) -> Refused:
    return Refused(Failure(Reason.UNKNOWN_ID, id=id))
