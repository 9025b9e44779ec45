"""Audio routes: start a run, and see how it goes."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.responses import Response

from services.api.database import Connection, LockWaitError, idempotency_keys, status_view
from services.api.domain.cost_estimate import estimate_of
from services.api.domain.request_fields import KEY_PART_CHARS_MAX, JobIdText
from services.api.domain.run_spec import (
    JobSpec,
    RequestInvalidError,
    build_run_spec,
    digest_of,
    problems_of,
    spec_of_body,
)
from services.api.http.context import ApiContext, ContextDep
from services.api.http.middleware.tracing import bind_job
from services.api.http.openapi import problems
from services.api.http.presenter import BASE_PATH, started_answer, status_answer
from services.api.http.problems import ProblemError, UnknownJobError
from services.api.http.request_body import read_json
from services.api.http.schemas import (
    GenerateAnswer,
    GenerateBody,
    StatusAnswer,
    StyleBody,
    VideoBody,
)
from services.api.runs.start import begin, lock_job
from shared.storage.keys import check_key

POLL_AFTER_S = 2  # a fair pace for whoever polls the status
router = APIRouter(tags=["audio"])
_KEY_PATTERN = r"^[!-~]{1,255}$"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=_KEY_PATTERN,
        description="The same key with the same body gets the first answer again, for 24 hours.",
    ),
]


@router.post(
    f"{BASE_PATH}/generate-scenes",
    status_code=HTTPStatus.ACCEPTED,
    response_model=GenerateAnswer,
    responses={
        202: {
            "description": "The run has begun, or runs already.",
            "headers": {
                "Location": {"description": "Its status.", "schema": {"type": "string"}},
                "Retry-After": {"description": "Seconds.", "schema": {"type": "string"}},
            },
        },
        **problems(400, 404, 408, 409, 413, 415, 422, 503),
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
    """Begin a run, or answer with the one that runs for the same request."""
    limits = context.settings.limits
    raw = await read_json(request, bytes_max=limits.body_bytes_max, part_s=limits.receive_s)
    body = _parsed(raw)
    bind_job(body.job_id)
    said = spec_of_body(body, limits)
    await _check_object(context, body.video, field="video", route="/api/v3/videos")
    style = body.audio_params.style_audio if body.audio_params else None
    await _check_object(
        context, style, field="audio_params.style_audio", route="/api/v3/audio/styles"
    )
    try:
        async with context.database.transaction() as connection:
            answer = await _answered_once(connection, context, body, said, idempotency_key)
    except LockWaitError as error:
        if idempotency_key is None:
            raise
        raise ProblemError(
            HTTPStatus.CONFLICT,
            "the first request with this Idempotency-Key still runs",
            headers={"Retry-After": str(POLL_AFTER_S)},
        ) from error
    headers = {"Location": answer["links"]["self"], "Retry-After": str(POLL_AFTER_S)}
    return JSONResponse(answer, status_code=HTTPStatus.ACCEPTED, headers=headers)


async def _answered_once(
    connection: Connection, context: ApiContext, body: GenerateBody, said: JobSpec, key: str | None
) -> dict[str, Any]:
    """The answer to `body`, or the kept one if its key was used before."""
    if key is None:
        return await _start(connection, context, body, said)
    now = context.clock.now()
    digest = digest_of(body.model_dump(mode="json", exclude_unset=True))
    oldest = now - timedelta(seconds=context.settings.idempotency_s)
    kept = await idempotency_keys.take(connection, key, digest, now=now, oldest=oldest)
    if kept is None:
        answer = await _start(connection, context, body, said)
        await idempotency_keys.keep(connection, key, status_code=HTTPStatus.ACCEPTED, answer=answer)
        return answer
    if kept.request_hash != digest or kept.answer is None:
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used for another request: take a new key",
            errors=[("Idempotency-Key", "was used for another request: take a new key")],
        )
    return kept.answer


async def _start(
    connection: Connection, context: ApiContext, body: GenerateBody, said: JobSpec
) -> dict[str, Any]:
    now = context.clock.now()
    job = await lock_job(connection, body.job_id, said, now=now)
    if job is None:
        raise UnknownJobError(body.job_id)
    asked = build_run_spec(
        body.job_id, job=job.spec, params=body.audio_params, defaults=context.settings.defaults
    )
    run, begun = await begin(connection, job, asked, pricing=context.settings.pricing, now=now)
    context.log.info(
        "job accepted", action="job.accepted", job_id=body.job_id, run=run.run, begun=begun
    )
    estimate = estimate_of(asked, context.settings.pricing)
    return started_answer(body.job_id, run, estimate=estimate).model_dump(mode="json")


def _parsed(raw: bytes) -> GenerateBody:
    try:
        return GenerateBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, f"the body is not JSON: {first['ctx']['error']}"
            ) from error
        raise RequestInvalidError(problems_of(error)) from error


async def _check_object(
    context: ApiContext, media: VideoBody | StyleBody | str | None, *, field: str, route: str
) -> None:
    """Whether `media` is in the store, if it is said to be there."""
    if media is None or isinstance(media, str) or media.object is None:
        return
    try:
        key = check_key(media.object)
    except ValueError as error:
        raise RequestInvalidError([(f"{field}.object", str(error))]) from error
    possible = max(map(len, key.split("/"))) <= KEY_PART_CHARS_MAX
    if not possible or await context.store.stat(key) is None:
        told = f"there is no object {key}: hand the file in with POST {route}"
        raise RequestInvalidError([(f"{field}.object", told)])


@router.get(
    f"{BASE_PATH}/status/{{job_id}}",
    response_model=StatusAnswer,
    responses={
        200: {"headers": {"ETag": {"schema": {"type": "string"}}}},
        **problems(304, 404, 422, 503),
    },
    summary="How the newest run of a job goes",
)
async def show_status(job_id: JobIdText, request: Request, context: ContextDep) -> Response:
    """Everything known of the job's newest run."""
    async with context.database.connection() as connection:
        row = await status_view.read(connection, job_id)
    if row is None:
        raise UnknownJobError(job_id)
    etag = f'W/"{row.version}-{context.paths.period}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    told = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
    if etag in told or "*" in told:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    answer = status_answer(row, seal=context.paths.path)
    return Response(
        answer.model_dump_json(), headers={**headers, "Content-Type": "application/json"}
    )
