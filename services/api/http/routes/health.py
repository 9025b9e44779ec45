"""Health routes: alive, ready, and the figures."""

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
    """The process serves."""

    status: str = "alive"


@router.get("/livez", summary="Whether the process serves; touches nothing")
async def alive() -> Alive:
    """Yes."""
    return Alive()


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A server we need does not answer."}},
    summary="Whether Kafka, PostgreSQL and the store answer, and whether the provider pauses",
)
async def ready(context: ContextDep) -> Response:
    """Each server with what is wrong with it."""
    told = await readiness(context.probes)
    status = HTTPStatus.OK if told.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(told.model_dump(), status_code=status)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    summary="The figures, for Prometheus",
)
async def metrics(context: ContextDep) -> Response:
    """Every metric of this process."""
    return await metrics_response("api", context.probes)
