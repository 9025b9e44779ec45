"""Routes for people: `/` lists the entry points, `/docs` is Swagger UI.

The pages load nothing from another host, and their policy (CSP) allows nothing else. Their links
are relative, so they work below a path of a proxy.

I/O: the files of Swagger UI.
"""

from html import escape
from http import HTTPStatus
from importlib.resources import as_file, files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.responses import Response

from services.api.http import swagger_ui
from services.api.http.problems import ProblemError
from shared.telemetry import service_version

ENTRY_POINTS = {
    "docs": ("/docs", "All requests, to try out in a browser"),
    "openapi": ("/openapi.json", "The OpenAPI document"),
    "generate": ("/api/v3/audio/generate-scenes", "POST: generate the music of a job's scenes"),
    "status": ("/api/v3/audio/status/{job_id}", "GET: status of a job, with its links"),
    "videos": ("/api/v3/videos", "POST: upload a video"),
    "styles": ("/api/v3/audio/styles", "POST: upload a style sample"),
    "livez": ("/livez", "The process is alive"),
    "readyz": ("/readyz", "The required servers answer"),
    "metrics": ("/metrics", "Metrics for Prometheus"),
}
_PAGES = frozenset({"docs", "openapi", "livez", "readyz", "metrics"})  # to open in a browser
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
    "favicon.png": "image/png",
}
_DOCS = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Segue API</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<script src="docs/swagger-ui-bundle.js" defer></script>
<script src="docs/start.js" defer></script>
</head>
<body><div id="swagger-ui"></div></body>
</html>
"""
router = APIRouter()


@router.get("/")
async def entry_points(request: Request) -> Response:
    """Return the entry points, as a page for browsers and as JSON otherwise."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_page(), headers={**_HEADERS, "Vary": "Accept"})
    body: dict[str, Any] = {
        "service": "segue",
        "version": service_version(),
        "entry_points": {
            name: {"path": path, "description": text} for name, (path, text) in ENTRY_POINTS.items()
        },
    }
    return JSONResponse(body, headers={"Vary": "Accept"})


@router.get("/docs")
async def docs() -> Response:
    """Return Swagger UI."""
    return HTMLResponse(_DOCS, headers=_HEADERS)


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    """Return a file of Swagger UI."""
    if name not in _FILES:
        raise ProblemError(HTTPStatus.NOT_FOUND, "path not found; the documentation is at /docs")
    with as_file(files(swagger_ui) / name) as path:
        headers = {**_HEADERS, "Cache-Control": "max-age=3600"}
        return FileResponse(path, media_type=_FILES[name], headers=headers)


def _page() -> str:
    rows = "\n".join(
        f"<tr><td>{_link(name, path)}</td><td>{escape(text)}</td></tr>"
        for name, (path, text) in ENTRY_POINTS.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Segue API</title>'
        f"</head>\n<body><h1>Segue {escape(service_version())}</h1>\n<table>\n{rows}\n</table>"
        "</body></html>\n"
    )


def _link(name: str, path: str) -> str:
    if name not in _PAGES:
        return f"<code>{escape(path)}</code>"
    return f'<a href="{escape(path.removeprefix("/"))}">{escape(path)}</a>'
