"""Problems: every error of the HTTP context as an RFC 9457 problem, from one table.

Whoever finds the fault raises the error that says it; the table here chooses the status. A
fault nobody expected is logged with its traceback and answered without one.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from services.api.domain.run_spec import FieldProblems, RequestInvalidError, path_of
from shared.errors import NotFoundError, RetryableError, SegueError
from shared.telemetry.log import Logger

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_PLACES = frozenset({"path", "query", "header", "body"})


class FieldProblem(BaseModel):
    """One field that is wrong, and the way out."""

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
    """An answer that is not a result: the status, and words for whoever asked."""

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
    """Nobody here has heard of this job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            HTTPStatus.NOT_FOUND,
            f"there is no job {job_id}: create it by sending scenes in "
            "POST /api/v3/audio/generate-scenes",
        )


def problem_response(
    request: Request,
    status: HTTPStatus,
    detail: str,
    *,
    errors: FieldProblems | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The problem as an answer."""
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail,
        instance=request.url.path,
        errors=None if errors is None else [FieldProblem(field=f, message=m) for f, m in errors],
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=status.value,
        headers=dict(headers or {}),
        media_type=CONTENT_TYPE,
    )


def install(app: FastAPI, log: Logger) -> None:
    """Answer every error of `app` as a problem."""
    _install_refusals(app)
    _install_faults(app, log)


def _install_refusals(app: FastAPI) -> None:
    """What whoever asked can change."""

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


def _install_faults(app: FastAPI, log: Logger) -> None:
    """What they cannot: somebody is away, something is gone, or the fault is ours."""

    @app.exception_handler(RetryableError)
    async def _busy(request: Request, error: RetryableError) -> Response:
        log.warning("request rejected", action="request.rejected", reason=str(error))
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else int(error.retry_after_s) + 1
        return problem_response(
            request,
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the service is busy or one of its servers is away; try again in {wait_s} s",
            headers={"Retry-After": str(wait_s)},
        )

    @app.exception_handler(NotFoundError)
    async def _gone(request: Request, error: NotFoundError) -> Response:
        log.warning("object missing", action="request.failed", reason=str(error))
        return problem_response(
            request, HTTPStatus.NOT_FOUND, "the media is no longer in the store"
        )

    @app.exception_handler(Exception)
    async def _bug(request: Request, error: Exception) -> Response:
        log.error(
            "request failed",
            action="request.failed",
            path=request.url.path,
            exc_info=(type(error), error, error.__traceback__),
        )
        return problem_response(
            request, HTTPStatus.INTERNAL_SERVER_ERROR, "an error of ours; it was logged"
        )


_HTTP_DETAILS = {
    HTTPStatus.NOT_FOUND: 'there is nothing at this path; a job id must not contain "/"',
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not know that method; see /openapi.json",
}


def _unprocessable(request: Request, problems: FieldProblems) -> Response:
    detail = "; ".join(f"{field}: {message}" for field, message in problems[:5])
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""  # noqa: PLR2004 - of five told
    return problem_response(
        request, HTTPStatus.UNPROCESSABLE_ENTITY, detail + more, errors=problems
    )


def _parameter_problems(found: Sequence[object]) -> FieldProblems:
    problems: FieldProblems = []
    for item in found:
        assert isinstance(item, dict), "FastAPI's findings are mappings"
        loc = [part for part in item["loc"] if part not in _PLACES]
        problems.append((path_of(loc), str(item["msg"]).removeprefix("Value error, ")))
    return problems
