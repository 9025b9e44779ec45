"""Maps errors to RFC 9457 problem responses.

Code raises an error that describes the fault; the handlers here choose the status. An unexpected
error is logged with its traceback; the response does not contain it.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.api.domain.request_fields import job_not_found
from services.api.domain.request_models import MEDIA_TAGS
from services.api.domain.run_spec import RequestInvalidError
from shared.contract.validation import (
    FieldProblems,
    field_path,
    join_problems,
    plain_message,
)
from shared.errors import NotFoundError, RetryableError, SegueError
from shared.telemetry.log import Logger

CONTENT_TYPE = "application/problem+json"
ERRORS_MAX = 32  # in one response; the detail has the count of the others
_FIELD_CHARS_MAX, _MESSAGE_CHARS_MAX = 200, 500
RETRY_AFTER_S = 2
_NOT_FIELDS = MEDIA_TAGS | {"path", "query", "header", "body"}


class FieldProblem(BaseModel):
    """An invalid field and what to change."""

    field: str = Field(examples=["scenes[2].duration_s"])
    message: str


class Problem(BaseModel):
    """An RFC 9457 problem."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[FieldProblem] | None = None


class ProblemError(SegueError):
    """An error response: its status and its detail for the client."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        errors: FieldProblems | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers


class UnknownJobError(ProblemError):
    """The job does not exist."""

    def __init__(self, job_id: str) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, job_not_found(job_id))


def problem_response(
    request: Request,
    status: HTTPStatus,
    detail: str,
    *,
    errors: FieldProblems | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem response."""
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=_shortened(detail, 8 * _MESSAGE_CHARS_MAX),
        instance=request.url.path,
        errors=None if errors is None else _field_problems(errors),
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=status.value,
        headers=dict(headers or {}),
        media_type=CONTENT_TYPE,
    )


def _field_problems(errors: FieldProblems) -> list[FieldProblem]:
    return [
        FieldProblem(
            field=_shortened(name, _FIELD_CHARS_MAX),
            message=_shortened(message, _MESSAGE_CHARS_MAX),
        )
        for name, message in errors[:ERRORS_MAX]
    ]


def _shortened(text: str, chars_max: int) -> str:
    """Return the start of `text`: field names and values come from the client."""
    return text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"


def install(app: FastAPI, log: Logger) -> None:
    """Register the handlers that turn every error of `app` into a problem."""
    _install_client_errors(app)
    _install_server_errors(app, log)


def _install_client_errors(app: FastAPI) -> None:
    """Errors that the client can correct."""

    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> Response:
        return problem_response(
            request, error.status, error.detail, errors=error.errors, headers=error.headers
        )

    @app.exception_handler(RequestInvalidError)
    async def _invalid(request: Request, error: RequestInvalidError) -> Response:
        return _unprocessable(request, error.problems)

    @app.exception_handler(RequestValidationError)
    async def _parameters(request: Request, error: RequestValidationError) -> Response:
        return _unprocessable(request, _parameter_problems(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        detail = _HTTP_DETAILS.get(status, str(error.detail))
        return problem_response(request, status, detail, headers=error.headers)


def _install_server_errors(app: FastAPI, log: Logger) -> None:
    """Errors that it cannot: unavailable servers, missing objects, bugs."""

    @app.exception_handler(RetryableError)
    async def _busy(request: Request, error: RetryableError) -> Response:
        log.warning("request rejected", action="request.rejected", reason=str(error))
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else int(error.retry_after_s) + 1
        return problem_response(
            request,
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the service is busy or a required server is unavailable; retry in {wait_s} s",
            headers={"Retry-After": str(wait_s)},
        )

    @app.exception_handler(NotFoundError)
    async def _gone(request: Request, error: NotFoundError) -> Response:
        log.warning("object missing", action="request.failed", reason=str(error))
        return problem_response(request, HTTPStatus.NOT_FOUND, "the file is no longer in the store")

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error(
            "request failed",
            action="request.failed",
            path=request.url.path,
            exc_info=(type(error), error, error.__traceback__),
        )
        return problem_response(
            request, HTTPStatus.INTERNAL_SERVER_ERROR, "internal server error (logged)"
        )


_HTTP_DETAILS = {
    HTTPStatus.NOT_FOUND: 'path not found; a job id must not contain "/"',
    HTTPStatus.METHOD_NOT_ALLOWED: "method not allowed for this path; see /openapi.json",
}


def _unprocessable(request: Request, problems: FieldProblems) -> Response:
    return problem_response(
        request, HTTPStatus.UNPROCESSABLE_ENTITY, join_problems(problems), errors=problems
    )


def _parameter_problems(errors: Sequence[object]) -> FieldProblems:
    problems: FieldProblems = []
    for item in errors:
        assert isinstance(item, dict), "FastAPI reports mappings"
        path = field_path(item["loc"], skip=_NOT_FIELDS, root="body")
        problems.append((path, plain_message(str(item["msg"]))))
    return problems
