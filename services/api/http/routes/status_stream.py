"""Route that streams the status of a job as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import Response, StreamingResponse

from services.api.database import status_view
from services.api.domain.progress import FINAL
from services.api.domain.request_fields import JobIdText
from services.api.http.context import ApiContext, ContextDep
from services.api.http.openapi import problems
from services.api.http.presenter import BASE_PATH, status_response
from services.api.http.problems import UnknownJobError
from shared.errors import RetryableError

HEARTBEAT_S = 15.0
RECONNECT_MS = 2_000
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "id": {"type": "string"},
        "data": {"type": "string", "description": "A `StatusResponse` as JSON."},
        "retry": {"type": "integer"},
    },
}
router = APIRouter(tags=["audio"])


@router.get(
    f"{BASE_PATH}/status/{{job_id}}/events",
    responses={
        200: {
            "description": "One `status` event per change, with the status response as data; "
            "the stream ends after a final status.",
            "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
        },
        204: {"description": "`Last-Event-ID` was the final event; no more follow."},
        **problems(404, 422, 503),
    },
    response_class=StreamingResponse,  # else FastAPI would run the stream itself
    summary="Follow a job by server-sent events",
)
async def follow(
    job_id: JobIdText,
    context: ContextDep,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="The last event received.")
    ] = None,
) -> Response:
    """Return a stream of the job's status."""
    context.notifications.check_capacity()
    async with context.database.connection() as connection:
        row = await status_view.read(connection, job_id)
    if row is None:
        raise UnknownJobError(job_id)
    if str(row.version) == last_event_id and row.progress["audio_status"] in FINAL:
        return Response(status_code=HTTPStatus.NO_CONTENT)  # stops an EventSource
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return EventSourceResponse(_stream(job_id, context, last_event_id), headers=headers)


async def _stream(job_id: str, context: ApiContext, known: str | None) -> AsyncIterator[bytes]:
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    with context.notifications.following(job_id) as changed:
        while not context.stop.is_set():
            changed.clear()
            try:
                async with context.database.connection() as connection:
                    row = await status_view.read(connection, job_id)
            except RetryableError:
                return  # the client reconnects with its Last-Event-ID
            if row is None:
                return
            body = status_response(row, sign=context.paths.path)
            if str(row.version) != known:
                known = str(row.version)
                data = body.model_dump_json()
                yield format_sse_event(event="status", id=known, data_str=data)
            if body.audio_status.status in FINAL:
                return
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await changed.wait()
            except TimeoutError:
                yield KEEPALIVE_COMMENT
