"""Route that cancels the newest run of a job."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from starlette.responses import Response

from services.api.domain.request_fields import JobIdText, Text
from services.api.http.context import ContextDep
from services.api.http.openapi import problems
from services.api.http.presenter import BASE_PATH, links_of
from services.api.http.problems import UnknownJobError
from services.api.http.schemas import CancelResponse
from services.api.runs.cancel import REASON_CHARS_MAX, cancel
from shared.contract.events import NUMBER_MAX

router = APIRouter(tags=["audio"])


@router.post(
    f"{BASE_PATH}/{{job_id}}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    response_model=CancelResponse,
    responses={
        200: {"model": CancelResponse, "description": "There was nothing to cancel."},
        202: {"description": "The run is being cancelled; follow its status."},
        **problems(403, 404, 422, 503),
    },
    summary="Cancel the newest run of a job; stored objects remain",
)
async def cancel_run(
    job_id: JobIdText,
    context: ContextDep,
    run: Annotated[
        int | None, Query(ge=1, le=NUMBER_MAX, description="Cancel only if this is the newest run.")
    ] = None,
    reason: Annotated[
        Text, Query(max_length=REASON_CHARS_MAX, description="Stored, and shown in the status.")
    ] = "",
) -> Response:
    """Cancel the newest run; repeated, or after the run has ended, it changes nothing."""
    async with context.database.transaction() as connection:
        outcome = await cancel(connection, job_id, run=run, reason=reason, now=context.clock.now())
    if outcome is None:
        raise UnknownJobError(job_id)
    if outcome.is_cancelling:
        context.log.info(
            "run is being cancelled", action="job.cancelled", job_id=job_id, run=outcome.run
        )
    body = CancelResponse(
        job_id=job_id,
        run=outcome.run,
        cancelling=outcome.is_cancelling,
        message=outcome.message,
        links=links_of(job_id),
    )
    status = HTTPStatus.ACCEPTED if outcome.is_cancelling else HTTPStatus.OK
    return JSONResponse(body.model_dump(mode="json"), status_code=status)
