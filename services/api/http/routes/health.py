"""Routes for liveness, readiness and metrics."""

from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response

from services.api.http.context import ContextDep
from shared.http.health import metrics_response
from shared.http.probes import Ready, readiness

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process is alive."""

    status: str = "alive"


@router.get("/livez", summary="Liveness of the process; checks no server")
async def alive() -> Alive:
    """Return that the process is alive."""
    return Alive()


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A required server is unavailable."}},
    summary="Readiness: Kafka, PostgreSQL and the store respond; whether the provider is paused",
)
async def ready(context: ContextDep) -> Response:
    """Return each server and its error."""
    state = await readiness(context.probes)
    status = HTTPStatus.OK if state.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(state.model_dump(), status_code=status)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    summary="Metrics for Prometheus",
)
async def metrics(context: ContextDep) -> Response:
    """Return every metric of this process."""
    return await metrics_response("api", context.probes)
