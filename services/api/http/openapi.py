"""Shared parts of the OpenAPI descriptions: problems, binary bodies, media responses."""

from typing import Any

from services.api.domain.request_fields import job_not_found
from services.api.http.problems import CONTENT_TYPE

_DETAILS = {
    304: "Not modified (`If-None-Match`).",
    400: "The body is not valid JSON, or is incomplete.",
    401: "Missing, invalid or expired signature.",
    403: "Sent by a page of another site (`Origin`, `Sec-Fetch-Site`).",
    404: "Not found: no such job, or the file does not exist yet.",
    405: "The path does not support this method.",
    408: "The body is too slow, or takes too long.",
    409: "The first request with this `Idempotency-Key` is still running.",
    410: "The link has expired; get a new one from the status.",
    413: "The body is too large.",
    415: "The `Content-Type` is not the one that the path requires.",
    416: "The range is beyond the end of the file.",
    422: "Invalid fields; `errors` lists each field and what to change.",
    500: "Internal server error.",
    507: "Uploads that no job references occupy too much space; retry after `Retry-After`.",
    503: "A required server is unavailable, or too many requests; retry after `Retry-After`.",
}
_EXAMPLES: dict[int, dict[str, Any]] = {
    404: {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": job_not_found("124"),
        "instance": "/api/v3/audio/status/124",
    },
    422: {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "scenes[2].duration_s: must be at least 0.02",
        "instance": "/api/v3/audio/generate-scenes",
        "errors": [
            {
                "field": "scenes[2].duration_s",
                "message": "must be at least 0.02",
            }
        ],
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for these problem codes."""
    described: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*codes, 500}):
        body: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
        if code in _EXAMPLES:
            body["example"] = _EXAMPLES[code]
        described[code] = {"description": _DETAILS[code]}
        if code != 304:  # noqa: PLR2004 - 304 has no body
            described[code]["content"] = {CONTENT_TYPE: body}
        if code in {409, 503, 507}:
            described[code]["headers"] = _RETRY_AFTER
    return described


def binary(*media_types: str) -> dict[str, Any]:
    """Return the OpenAPI content of a binary body."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}


def media_responses(media_type: str, *codes: int) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's `responses` for a file with byte ranges."""
    part = {
        "description": "The requested byte range.",
        "content": binary(media_type),
        "headers": {"Content-Range": {"schema": {"type": "string"}}},
    }
    whole = {
        "description": "The file.",
        "content": binary(media_type),
        "headers": {
            "Accept-Ranges": {"schema": {"type": "string"}},
            "ETag": {"schema": {"type": "string"}},
        },
    }
    return {200: whole, 206: part, **problems(304, 416, 503, *codes)}
