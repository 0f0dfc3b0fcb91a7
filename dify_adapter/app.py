"""Puts the adapter together: the desk, the routes, and how whatever goes wrong is told."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from dify_adapter.changes import Changes
from dify_adapter.desk import Desk
from dify_adapter.gate import Gate, check_origin
from dify_adapter.keyring import Keyring
from dify_adapter.keys import make_link_secrets
from dify_adapter.limits import Limits
from dify_adapter.links import Links
from dify_adapter.metrics import Metrics
from dify_adapter.reader import BucketReader, Reader, VolumeReader
from dify_adapter.refusal import Refused, unavailable
from dify_adapter.responses import answer_refusal
from dify_adapter.routes import dify, health, jobs, outputs, simple, uploads, workflows
from dify_adapter.uploads import Uploads
from handoff.decode import excerpt
from handoff.failures import EdgeError, Failure, Reason
from handoff.folders import Folders
from handoff.log import get as _log
from handoff.settings import AdapterSettings, SettingsError, name_of
from handoff.stores.opening import open_store
from workflows.catalogue import Catalogue

ROUTERS = [module.router for module in (jobs, workflows, outputs, uploads, simple, dify, health)]


def make_app(settings: AdapterSettings) -> FastAPI:
    """Raises SettingsError."""
    desk = make_desk(settings)
    app = FastAPI(
        title="Handoff",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_live,
        dependencies=[Depends(check_origin)],
    )
    app.state.desk = desk
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(Failure, _fail)
    app.add_exception_handler(EdgeError, _miss)
    app.add_exception_handler(OSError, _miss)
    app.add_exception_handler(RequestValidationError, _misunderstand)
    app.add_exception_handler(HTTPException, _find_nothing)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "PUT", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "Idempotency-Key"],
            expose_headers=["Location", "Retry-After"],
        )
    app.add_middleware(Gate, body_limit=settings.body_limit, metrics=desk.metrics)
    return app


def make_desk(settings: AdapterSettings) -> Desk:
    """Raises SettingsError."""
    folders = settings.folders
    keys = Keyring(settings)
    secrets = [text.encode() for text in settings.link_secrets] or make_link_secrets(keys.keys)
    reader = _make_reader(settings, folders)
    try:
        kept = Uploads(folders, url_allow=settings.url_allow)
    except ValueError as error:
        raise SettingsError(f"{name_of('url_allow')}: {error}") from None
    return Desk(
        settings=settings,
        folders=folders,
        catalogue=Catalogue(settings.workflows_dir),
        reader=reader,
        changes=Changes(reader),
        keys=keys,
        limits=Limits(folders, requests=settings.requests_per_key, jobs=settings.jobs_per_key),
        # without keys everybody sees everything, and a link guards nothing
        links=Links(secrets or [b"no keys"], lifetime_s=settings.link_lifetime_s, now=time.time),
        uploads=kept,
        metrics=Metrics(folders),
    )


def _make_reader(settings: AdapterSettings, folders: Folders) -> Reader:
    if settings.status_source == "volume":
        return VolumeReader(folders)
    return BucketReader(folders, open_store(settings), prefix=settings.s3_prefix)


@asynccontextmanager
async def _live(app: FastAPI) -> AsyncIterator[None]:
    desk: Desk = app.state.desk
    await desk.changes.start()
    try:
        async with desk.uploads.collecting():
            yield
    finally:
        await desk.changes.close()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return answer_refusal(request, error)


async def _fail(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return answer_refusal(request, Refused(error))


async def _miss(request: Request, error: Exception) -> Response:
    """The volume or the bucket is away. What it said names paths, so it goes to the log."""
    _log().error("unavailable", method=request.method, path=request.url.path, error=str(error))
    return answer_refusal(request, unavailable("the shared volume or the bucket does not answer, or is full"))


async def _misunderstand(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return answer_refusal(request, Refused(Failure(Reason.BAD_FIELD, field=place, problem=str(first["msg"]))))


async def _find_nothing(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    path = excerpt(request.url.path)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "-")
        failure = Failure(Reason.METHOD_NOT_ALLOWED, method=excerpt(request.method), path=path, allowed=allowed)
        return answer_refusal(request, Refused(failure, headers={"Allow": allowed}))
    if error.status_code == 404:
        return answer_refusal(request, Refused(Failure(Reason.NOT_FOUND, path=path)))
    return answer_refusal(request, Refused(Failure(Reason.BAD_BODY, problem=error.detail), status=error.status_code))
