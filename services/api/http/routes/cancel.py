"""Cancel route: stop a run, and spend nothing more on it."""

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
from services.api.http.schemas import CancelAnswer
from services.api.runs.cancel import REASON_CHARS_MAX, cancel
from shared.contract.events import NUMBER_MAX

router = APIRouter(tags=["audio"])


@router.post(
    f"{BASE_PATH}/{{job_id}}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    response_model=CancelAnswer,
    responses={
        200: {"model": CancelAnswer, "description": "There was nothing to cancel."},
        202: {"description": "The run stops; its status says when it has."},
        **problems(404, 422, 503),
    },
    summary="Stop the newest run of a job; what was made stays",
)
async def cancel_run(
    job_id: JobIdText,
    context: ContextDep,
    run: Annotated[
        int | None, Query(ge=1, le=NUMBER_MAX, description="Only this run, if it is the newest.")
    ] = None,
    reason: Annotated[
        Text, Query(max_length=REASON_CHARS_MAX, description="Kept, and shown in the status.")
    ] = "",
) -> Response:
    """Cancel; asked again, or of a run that has ended, it changes nothing."""
    async with context.database.transaction() as connection:
        told = await cancel(connection, job_id, run=run, reason=reason, now=context.clock.now())
    if told is None:
        raise UnknownJobError(job_id)
    if told.is_cancelling:
        context.log.info("job is cancelled", action="job.cancelled", job_id=job_id, run=told.run)
    answer = CancelAnswer(
        job_id=job_id,
        run=told.run,
        cancelling=told.is_cancelling,
        message=told.message,
        links=links_of(job_id),
    )
    status = HTTPStatus.ACCEPTED if told.is_cancelling else HTTPStatus.OK
    return JSONResponse(answer.model_dump(mode="json"), status_code=status)
