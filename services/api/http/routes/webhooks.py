"""Webhook routes: the provider tells that a prediction ended; whoever waits for it looks now.

Nothing of it is believed but that: the generator reads the prediction itself. A message that
never comes costs a few seconds, because polling goes on.
"""

import math
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from services.api.database import outbox
from services.api.http.context import ApiContext, ContextDep
from services.api.http.openapi import problems
from services.api.http.problems import ProblemError
from services.api.http.request_body import read_json
from services.api.http.webhook_keys import AGAIN_S, NoWebhookKeyError
from shared.contract.events import PredictionEnded
from shared.security.signed_links import LinkExpiredError, LinkUnknownError
from shared.security.webhook_signatures import WEBHOOK_PATH, WebhookRefusedError

BODY_BYTES_MAX = 1024 * 1024  # a prediction with its logs
router = APIRouter(tags=["webhooks"])
WebhookToken = Annotated[str, Path(description="Sealed: which job it is about.")]


class PredictionWebhook(BaseModel):
    """What is read of a message; the rest is looked up."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$", description="The prediction.")


@router.post(
    f"{WEBHOOK_PATH}/{{token}}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses={
        204: {"description": "Heard; a message that came before changes nothing."},
        **problems(400, 401, 404, 408, 410, 413, 415, 422, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/PredictionNews"}}
            },
        }
    },
    summary="A prediction ended; signed by the provider (Standard Webhooks)",
)
async def prediction_ended(token: WebhookToken, request: Request, context: ContextDep) -> Response:
    """Tell the generator to look."""
    try:
        job_id = context.webhook_links.open(token)
    except LinkUnknownError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, "there is no such webhook") from error
    except LinkExpiredError as error:
        raise ProblemError(HTTPStatus.GONE, f"nobody waits any more: {error}") from error
    receive_s = context.settings.limits.receive_s
    body = await read_json(request, bytes_max=BODY_BYTES_MAX, part_s=receive_s)
    message_id = await _verified(request, body, job_id=job_id, context=context)
    now = context.clock.now()
    if not context.webhooks_heard.is_new(message_id, now_s=now.timestamp()):
        return Response(status_code=HTTPStatus.NO_CONTENT)
    try:
        news = _parsed(body)
        event = PredictionEnded(job_id=job_id, prediction_id=news.id)
        async with context.database.transaction() as connection:
            await outbox.add_events(connection, [event], now=now)
    except BaseException:
        context.webhooks_heard.forget(message_id)
        raise
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _verified(request: Request, body: bytes, *, job_id: str, context: ApiContext) -> str:
    """The id of the message; refusals are said to an operator too."""
    try:
        return await context.webhook_keys.verified(request.headers, body)
    except (WebhookRefusedError, NoWebhookKeyError) as error:
        context.log.warning(
            "webhook refused", action="webhook.rejected", job_id=job_id, reason=str(error)
        )
        if isinstance(error, WebhookRefusedError):
            detail = f"not from the provider: {error}"
            raise ProblemError(HTTPStatus.UNAUTHORIZED, detail) from error
        again = {"Retry-After": str(math.ceil(AGAIN_S))}
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), headers=again) from error


def _parsed(body: bytes) -> PredictionWebhook:
    try:
        return PredictionWebhook.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the body is not JSON") from error
        raise ProblemError(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "the body is no prediction: id is missing or no id",
            errors=[("id", first["msg"])],
        ) from error
