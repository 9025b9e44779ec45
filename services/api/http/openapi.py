"""Documents: the parts that the routes' OpenAPI descriptions share."""

from typing import Any

from services.api.http.problems import CONTENT_TYPE

_DETAILS = {
    304: "It is what you have already (`If-None-Match`).",
    400: "The body is not JSON, or ended early.",
    401: "Nobody we know signed it, or not now.",
    404: "There is no such job, or what was asked for is not made yet.",
    405: "This path does not know that method.",
    408: "The body stalled.",
    409: "The first request with this `Idempotency-Key` still runs.",
    410: "The link was good once; its time is over. Ask the status for a new one.",
    413: "The body is larger than is allowed.",
    415: "The body is not JSON by its `Content-Type`.",
    416: "The range lies behind the end.",
    422: "A field is wrong; `errors` names each and the way out.",
    500: "An error of ours.",
    503: "A server we need is away, or too much is asked at once; `Retry-After` says when.",
}
_EXAMPLES: dict[int, dict[str, Any]] = {
    404: {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no job 124: create it by sending scenes in "
        "POST /api/v3/audio/generate-scenes",
        "instance": "/api/v3/audio/status/124",
    },
    422: {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "scenes[2].duration_s: Input should be greater than or equal to 0.02",
        "instance": "/api/v3/audio/generate-scenes",
        "errors": [
            {
                "field": "scenes[2].duration_s",
                "message": "Input should be greater than or equal to 0.02",
            }
        ],
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these codes, each a problem."""
    described: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*codes, 500}):
        body: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
        if code in _EXAMPLES:
            body["example"] = _EXAMPLES[code]
        described[code] = {"description": _DETAILS[code]}
        if code != 304:  # noqa: PLR2004 - it has no body
            described[code]["content"] = {CONTENT_TYPE: body}
        if code in {409, 503}:
            described[code]["headers"] = _RETRY_AFTER
    return described


def binary(*media_types: str) -> dict[str, Any]:
    """The content of a body or an answer that is bytes."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}


def media_responses(media_type: str, *codes: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for a file that is served whole or in part."""
    part = {
        "description": "The part that `Range` asked for.",
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
