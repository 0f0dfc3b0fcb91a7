"""POST /v1/uploads: an input picture, kept until a job needs it."""

import tempfile

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from dify_adapter import submission
from dify_adapter.asking import Caller, HowAsked
from dify_adapter.desk import AtDesk
from dify_adapter.keys import Scope
from dify_adapter.reception import Body, read_body
from dify_adapter.responses import answer_json
from dify_adapter.uploads import Uploads
from handoff.failures import Failure, Reason
from handoff.pictures import Picture

router = APIRouter()
FIELDS = ("url", "image", "data")
"""Names under which a body gives a URL, a `data:` URL or plain Base64."""
_SCHEMES = ("http:", "https", "data:")
_IN_MEMORY = 1 << 20


@router.post("/v1/uploads")
async def upload(request: Request, desk: AtDesk, caller: Caller, asked: HowAsked) -> Response:
    """201 with what a picture parameter takes as `name`; several files give several, and `name` is the first one's."""
    del asked
    submission.allow(caller, Scope.SUBMIT, "this key may only read")
    if request.headers.get("content-type", "").lower().startswith("image/"):
        pictures = [await _keep_raw(request, desk.uploads)]
    else:
        async with read_body(request, limit=desk.settings.body_limit) as body:
            pictures = await to_thread.run_sync(_keep, desk.uploads, body)
    described = [_describe(picture) for picture in pictures]
    return answer_json({**described[0], "uploads": described}, status=201)


async def _keep_raw(request: Request, uploads: Uploads) -> Picture:
    """A body that is the picture itself, as `curl --data-binary @cat.png -H "Content-Type: image/png"` sends it."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        async for part in request.stream():
            file.write(part)
        file.seek(0)
        return await to_thread.run_sync(uploads.keep, file)


def _keep(uploads: Uploads, body: Body) -> list[Picture]:
    if body.files:
        return [uploads.keep(file.content, file.filename or file.name) for file in body.files]
    for field in FIELDS:
        given = body.fields.get(field)
        if isinstance(given, str) and given.strip():
            return [uploads.fetch(given) if given.lstrip()[:5].lower() in _SCHEMES else uploads.unpack(given)]
    raise Failure(Reason.BAD_BODY, problem="it holds no picture: send a file, or `url` or `image` (Base64)")


def _describe(picture: Picture) -> dict[str, object]:
    return {
        "name": picture.name,
        "sha256": picture.sha256,
        "media_type": picture.media_type,
        "width": picture.width,
        "height": picture.height,
    }
