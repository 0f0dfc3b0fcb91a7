"""Who asks, and how it is to be answered: the dependencies of every route that needs a key."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from dify_adapter.asked import Asked, read_asked
from dify_adapter.desk import desk_of
from dify_adapter.keys import Key, read_presented
from handoff.failures import Failure, Reason


def asked_of(request: Request) -> Asked:
    """Raises Failure for a question that makes no sense."""
    asked = read_asked(request.query_params, desk_of(request).settings.language)
    if asked.failure is not None:
        raise asked.failure
    return asked


async def caller_of(request: Request) -> AsyncIterator[Key]:
    """The key, and a place among its owner's requests until the answer is made. Raises Failure, Refused."""
    desk = desk_of(request)
    presented = read_presented(request.headers)
    key = desk.keys.find(presented)
    if key is None:
        problem = "No key came with the request" if presented is None else "The key is wrong"
        raise Failure(Reason.UNAUTHORIZED, problem=problem)
    with desk.limits.request(key.owner):
        yield key


Caller = Annotated[Key, Depends(caller_of)]
HowAsked = Annotated[Asked, Depends(asked_of)]
