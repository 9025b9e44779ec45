"""Health routes: alive, ready, and the figures."""

import asyncio
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import Response

from services.api.edge import EdgeDep

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process serves."""

    status: str = "alive"


class Check(BaseModel):
    """One server we need."""

    ok: bool
    detail: str


class Ready(BaseModel):
    """Whether everything we need answers."""

    ready: bool
    checks: dict[str, Check]


@router.get("/livez", summary="Whether the process serves; touches nothing")
async def alive() -> Alive:
    """Yes."""
    return Alive()


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A server we need does not answer."}},
    summary="Whether Kafka, PostgreSQL and the store answer",
)
async def ready(edge: EdgeDep) -> Response:
    """Each server with what is wrong with it."""
    found = await asyncio.gather(*(probe.problem() for probe in edge.probes))
    checks = {
        probe.name: Check(ok=problem is None, detail=problem or "answers")
        for probe, problem in zip(edge.probes, found, strict=True)
    }
    told = Ready(ready=all(check.ok for check in checks.values()), checks=checks)
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
async def metrics() -> Response:
    """Every metric of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
