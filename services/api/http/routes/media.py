"""Routes that serve tracks, videos and segments as files."""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from services.api.database import Connection, status_view
from services.api.database.status_view import Media
from services.api.domain.request_fields import JobIdText
from services.api.http.byte_ranges import attachment, respond
from services.api.http.context import ApiContext, ContextDep
from services.api.http.openapi import media_responses
from services.api.http.presenter import BASE_PATH, missing_media, status_response
from services.api.http.problems import ProblemError, UnknownJobError
from shared.errors import NotFoundError
from shared.media.samples import TRACK_CONTENT_TYPE, VIDEO_CONTENT_TYPE
from shared.security.signed_links import SEGMENTS_PATH, LinkExpiredError, LinkUnknownError

router = APIRouter(tags=["media"])
SegmentToken = Annotated[str, Path(description="Opaque, short-lived token.")]
Find = Callable[[Connection, str], Awaitable[Media | None]]
_CLIP = re.compile(r"^jobs/[0-9a-f]{32}/runs/\d+/(scenes/\d{5,}/clip-\d+|style)\.mp3$")
_PRIVATE = {
    "Cache-Control": "private",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
}
_NO_SEGMENT = "segment not found"


@router.head(f"{BASE_PATH}/{{job_id}}/download", include_in_schema=False)
@router.get(
    f"{BASE_PATH}/{{job_id}}/download",
    responses=media_responses(TRACK_CONTENT_TYPE, 404, 422),
    response_class=Response,
    summary="Track of the newest run that has one",
)
async def download_track(job_id: JobIdText, request: Request, context: ContextDep) -> Response:
    """Return the track as MP3."""
    return await _serve(request, context, job_id, find=status_view.newest_track, ending=".mp3")


@router.head(f"{BASE_PATH}/{{job_id}}/video", include_in_schema=False)
@router.get(
    f"{BASE_PATH}/{{job_id}}/video",
    responses=media_responses(VIDEO_CONTENT_TYPE, 404, 422),
    response_class=Response,
    summary="Video of the newest run that has one",
)
async def download_video(job_id: JobIdText, request: Request, context: ContextDep) -> Response:
    """Return the video with its music as MP4."""
    return await _serve(request, context, job_id, find=status_view.newest_video, ending=".mp4")


async def _serve(
    request: Request, context: ApiContext, job_id: str, *, find: Find, ending: str
) -> Response:
    async with context.database.connection() as connection:
        media = await find(connection, job_id)
        row = None if media else await status_view.read(connection, job_id)
    if media is None:
        if row is None:
            raise UnknownJobError(job_id)
        status = status_response(row, sign=context.paths.path)
        noun = "track" if ending == ".mp3" else "video"
        raise ProblemError(HTTPStatus.NOT_FOUND, missing_media(status, noun=noun))
    stat = await context.store.stat(media.object_key)
    if stat is None:
        raise NotFoundError(media.object_key)
    headers = {
        "Content-Disposition": attachment(job_id, ending),
        "Cache-Control": "private, no-cache",
    }
    return respond(request, context.store, stat, headers=headers)


@router.head(f"{SEGMENTS_PATH}/{{token}}", include_in_schema=False)
@router.get(
    f"{SEGMENTS_PATH}/{{token}}",
    responses=media_responses(TRACK_CONTENT_TYPE, 404, 410, 422),
    response_class=Response,
    summary="One stored segment, by its signed link",
)
async def stored_segment(request: Request, context: ContextDep, token: SegmentToken) -> Response:
    """Return a segment as the provider generated it."""
    try:
        key = context.links.open(token)
    except LinkUnknownError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, _NO_SEGMENT, headers=_PRIVATE) from error
    except LinkExpiredError as error:
        raise ProblemError(HTTPStatus.GONE, str(error), headers=_PRIVATE) from error
    stat = await context.store.stat(key) if _CLIP.match(key) else None
    if stat is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, _NO_SEGMENT, headers=_PRIVATE)
    return respond(request, context.store, stat, headers=_PRIVATE)
