"""Creates the FastAPI application and its OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.api.domain.request_models import GenerateBody
from services.api.http import problems
from services.api.http.context import ApiContext
from services.api.http.middleware.site_guard import SiteGuard
from services.api.http.middleware.tracing import TracingMiddleware
from services.api.http.routes import (
    cancel,
    entry_points,
    generate,
    health,
    media,
    status_stream,
    styles,
    videos,
    webhooks,
)
from shared.telemetry import service_version, trace

DESCRIPTION = (
    "Generates music for a stitched video, scene by scene, each continuing the previous one. "
    "Errors are RFC 9457 problems."
)
EXAMPLE_BODY = {
    "job_id": "123",
    "scenes": [
        {"description": "a calm lake at dawn", "duration_s": 4.5},
        {"description": "an exciting chase", "duration_s": 6},
    ],
    "audio_params": {
        "fade_duration": 1.5,
        "sync_mode": "trim",
        "merge_with_video": False,
        "error_strategy": "continue_with_silence",
        "prompt": "Upbeat cinematic music",
    },
}
_REF = "#/components/schemas/{model}"


def create_app(context: ApiContext) -> FastAPI:
    """Return the application that serves `context`."""
    app = FastAPI(
        title="Segue",
        version=service_version(),
        description=DESCRIPTION,
        docs_url=None,  # both pages load scripts from a CDN
        redoc_url=None,
        redirect_slashes=False,  # the address of a redirect would be built from the Host header
    )
    app.state.context = context
    app.add_middleware(
        SiteGuard,
        hosts=context.settings.trusted_host_names,
        public_url=context.settings.links.public_base_url or "",
    )
    app.add_middleware(TracingMiddleware, log=context.log, service=trace.current_service())
    problems.install(app, context.log)
    app.include_router(entry_points.router, include_in_schema=False)
    for routes in (generate, cancel, status_stream, media, videos, styles, webhooks, health):
        app.include_router(routes.router)
    document = _document(app)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's way to extend it
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for model in (GenerateBody, webhooks.PredictionWebhook, problems.Problem):
        schema = model.model_json_schema(ref_template=_REF)
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    schemas["GenerateBody"]["examples"] = [EXAMPLE_BODY]
    return document
