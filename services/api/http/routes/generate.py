"""Routes that start a run and return the status of a job."""

import asyncio
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.responses import Response

from services.api.database import Connection, LockWaitError, idempotency_keys, status_view, uploads
from services.api.domain.request_fields import JobIdText
from services.api.domain.request_models import GenerateBody, StyleBody, VideoBody, parse_body
from services.api.domain.run_spec import (
    JobSpec,
    RequestInvalidError,
    body_problems,
    build_run_spec,
    digest_of,
    spec_of_body,
    video_warnings,
)
from services.api.http.context import ApiContext, ContextDep
from services.api.http.middleware.tracing import bind_job
from services.api.http.openapi import problems
from services.api.http.presenter import BASE_PATH, started_response, status_response
from services.api.http.problems import ProblemError, UnknownJobError
from services.api.http.schemas import GenerateResponse, StatusResponse
from services.api.runs.start import lock_job, start_run
from services.api.settings import LimitSettings
from shared.storage.keys import is_upload_key

POLL_AFTER_S = 2  # recommended polling interval
router = APIRouter(tags=["audio"])
_KEY_PATTERN = r"^[!-~]{1,255}$"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=_KEY_PATTERN,
        description="The same key and body return the first response again, for 24 hours.",
    ),
]


@router.post(
    f"{BASE_PATH}/generate-scenes",
    status_code=HTTPStatus.ACCEPTED,
    response_model=GenerateResponse,
    responses={
        202: {
            "description": "The run was started, or is running already.",
            "headers": {
                "Location": {"description": "Path of the status.", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds.", "schema": {"type": "string"}},
            },
        },
        **problems(400, 403, 404, 408, 409, 413, 415, 422, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/GenerateBody"}}
            },
        }
    },
    summary="Start audio generation for all scenes of a job",
)
async def generate_scenes(
    request: Request, context: ContextDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Start a run, or return the running run of the same request."""
    limits = context.settings.limits
    bodies = context.json_bodies
    async with bodies.received(request, bytes_max=limits.body_bytes_max) as raw:
        body, job_spec = await bodies.parse(raw, lambda text: _parsed(text, limits))
    bind_job(body.job_id)
    await _check_object(context, body.video, field="video", route="/api/v3/videos")
    style = body.audio_params.style_audio if body.audio_params else None
    await _check_object(
        context, style, field="audio_params.style_audio", route="/api/v3/audio/styles"
    )
    try:
        async with context.database.transaction() as connection:
            response = await _respond_once(connection, context, body, job_spec, idempotency_key)
    except LockWaitError as error:
        if idempotency_key is None:
            raise
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "the first request with this Idempotency-Key is still running: retry later",
            headers={"Retry-After": str(POLL_AFTER_S)},
        ) from error
    headers = {"Location": response["links"]["self"], "Retry-After": str(POLL_AFTER_S)}
    return JSONResponse(response, status_code=HTTPStatus.ACCEPTED, headers=headers)


async def _respond_once(
    connection: Connection,
    context: ApiContext,
    body: GenerateBody,
    job_spec: JobSpec,
    key: str | None,
) -> dict[str, Any]:
    """Return the response to `body`, or the stored one if its key was used before."""
    if key is None:
        return await _start(connection, context, body, job_spec)
    now = context.clock.now()
    digest = digest_of(body.model_dump(mode="json", exclude_unset=True))
    oldest = now - timedelta(seconds=context.settings.idempotency_s)
    stored = await idempotency_keys.reserve(connection, key, digest, now=now, oldest=oldest)
    if stored is None:
        response = await _start(connection, context, body, job_spec)
        await idempotency_keys.store(
            connection, key, status_code=HTTPStatus.ACCEPTED, response=response
        )
        return response
    if stored.request_hash != digest or stored.response is None:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used for another request: use a new key",
            errors=[("Idempotency-Key", "was used for another request: use a new key")],
        )
    return stored.response


async def _start(
    connection: Connection, context: ApiContext, body: GenerateBody, job_spec: JobSpec
) -> dict[str, Any]:
    now = context.clock.now()
    job = await lock_job(connection, body.job_id, job_spec, now=now)
    if job is None:
        raise UnknownJobError(body.job_id)
    spec = build_run_spec(
        body.job_id, job=job.spec, params=body.audio_params, defaults=context.settings.defaults
    )
    await _keep_uploads(connection, context, spec.object_keys)
    started = await start_run(connection, job, spec, pricing=context.settings.pricing, now=now)
    context.log.info(
        "job accepted",
        action="job.accepted",
        job_id=body.job_id,
        run=started.run,
        is_new=started.is_new,
    )
    warnings = [
        *video_warnings(spec.video, spec.params),
        *started.warnings(context.settings.pricing.provider),
    ]
    # in a thread: descriptions of five megabytes take seconds
    prompts = await asyncio.to_thread(lambda: started.spec.prompts)
    response = started_response(body.job_id, started, prompts=prompts, warnings=warnings)
    return response.model_dump(mode="json")


def _parsed(raw: bytes, limits: LimitSettings) -> tuple[GenerateBody, JobSpec]:
    try:
        body = parse_body(GenerateBody, raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, f"the body is not JSON: {first['ctx']['error']}"
            ) from error
        raise RequestInvalidError(body_problems(error)) from error
    return body, spec_of_body(body, limits)


async def _check_object(
    context: ApiContext, media: VideoBody | StyleBody | str | None, *, field: str, route: str
) -> None:
    """Raise if `media` refers to an object that is not an upload, or not in the store."""
    if media is None or isinstance(media, str) or media.object is None:
        return
    key = media.object
    if not is_upload_key(key) or await context.store.stat(key) is None:
        message = f"upload {key[:100]!r} not found: upload the file with POST {route}"
        raise RequestInvalidError([(f"{field}.object", message)])


async def _keep_uploads(connection: Connection, context: ApiContext, keys: frozenset[str]) -> None:
    """Keep the uploads of a run from being deleted; raise if one was deleted meanwhile."""
    missing = keys - await uploads.reference(connection, keys)
    stats = [await context.store.stat(key) for key in sorted(missing)]
    if None in stats:
        message = f"upload {', '.join(sorted(missing))} was deleted: upload the file again"
        raise RequestInvalidError([("video.object", message)])
    await uploads.add_found(connection, [stat for stat in stats if stat is not None])
    await uploads.reference(connection, missing)


@router.get(
    f"{BASE_PATH}/status/{{job_id}}",
    response_model=StatusResponse,
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}}}},
        **problems(304, 404, 422, 503),
    },
    summary="Status of the newest run of a job",
)
async def show_status(job_id: JobIdText, request: Request, context: ContextDep) -> Response:
    """Return the status of the job's newest run."""
    async with context.database.connection() as connection:
        row = await status_view.read(connection, job_id)
    if row is None:
        raise UnknownJobError(job_id)
    etag = f'W/"{row.version}-{context.paths.period}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    etags = [value.strip() for value in request.headers.get("if-none-match", "").split(",")]
    if etag in etags or "*" in etags:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    body = status_response(row, sign=context.paths.path)
    return Response(body.model_dump_json(), headers={**headers, "Content-Type": "application/json"})
