"""Route for the provider's webhooks: a prediction ended, so the generator reads it now.

Nothing else in the message is trusted: the generator reads the prediction from the provider. A
lost webhook costs a few seconds, because the generator also polls.
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
from services.api.http.webhook_keys import AGAIN_S, NoWebhookKeyError
from shared.contract.events import PredictionEnded
from shared.contract.validation import plain_message
from shared.security.signed_links import LinkExpiredError, LinkUnknownError
from shared.security.webhook_signatures import WEBHOOK_PATH, WebhookRefusedError

BODY_BYTES_MAX = 1024 * 1024  # a prediction with its logs
router = APIRouter(tags=["webhooks"])
WebhookToken = Annotated[str, Path(description="Signed token with the job id.")]


class PredictionWebhook(BaseModel):
    """The used part of a webhook; the generator reads the rest from the provider."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$", description="The prediction.")


@router.post(
    f"{WEBHOOK_PATH}/{{token}}",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses={
        204: {"description": "Accepted; a repeated delivery changes nothing."},
        **problems(400, 401, 403, 404, 408, 410, 413, 415, 422, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/PredictionWebhook"}}
            },
        }
    },
    summary="A prediction ended (signed, Standard Webhooks)",
)
async def prediction_ended(token: WebhookToken, request: Request, context: ContextDep) -> Response:
    """Publish `prediction.ended` so that the generator reads the prediction now."""
    try:
        job_id = context.webhook_links.open(token)
    except LinkUnknownError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, "webhook not found") from error
    except LinkExpiredError as error:
        raise ProblemError(HTTPStatus.GONE, f"webhook link expired: {error}") from error
    async with context.json_bodies.received(request, bytes_max=BODY_BYTES_MAX) as body:
        message_id = await _verified(request, body, job_id=job_id, context=context)
        await _publish_once(body, message_id, job_id=job_id, context=context)
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _publish_once(body: bytes, message_id: str, *, job_id: str, context: ApiContext) -> None:
    """Publish the event, unless the message was received before."""
    now = context.clock.now()
    if not context.deliveries.is_new(message_id, now_s=now.timestamp()):
        return
    try:
        webhook = await context.json_bodies.parse(body, _parsed)
        event = PredictionEnded(job_id=job_id, prediction_id=webhook.id)
        async with context.database.transaction() as connection:
            await outbox.add_events(connection, [event], now=now)
    except BaseException:
        context.deliveries.forget(message_id)
        raise


async def _verified(request: Request, body: bytes, *, job_id: str, context: ApiContext) -> str:
    """Return the id of the message; log a rejected one for operators."""
    try:
        return await context.webhook_keys.verified(request.headers, body)
    except (WebhookRefusedError, NoWebhookKeyError) as error:
        context.log.warning(
            "webhook rejected", action="webhook.rejected", job_id=job_id, reason=str(error)
        )
        if isinstance(error, WebhookRefusedError):
            detail = f"signature rejected: {error}"
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
            "the body is not a prediction: id is missing or invalid",
            errors=[("id", plain_message(first["msg"]))],
        ) from error
