"""Builds Replicate's responses, with the recorded text of its errors.

Recorded: 401, 402, 422 (fields, version) and 429. For 404, 500, 503 and invalid JSON only the form
is known, or nothing.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from replicate_server.http.request_schema import InvalidField, detail_of


def json_response(body: Mapping[str, Any], *, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(json.dumps(body) + "\n", status, media_type="application/json")


def problem(body: Mapping[str, Any], *, status: int) -> Response:
    """Return a problem response."""
    content = json.dumps({**body, "status": status}) + "\n"
    return Response(content, status, media_type="application/problem+json")


def unauthenticated() -> Response:
    """Return 401: missing or invalid token."""
    detail = "You did not pass a valid authentication token"
    return problem({"title": "Unauthenticated", "detail": detail}, status=401)


def insufficient_credit() -> Response:
    """Return 402: the account has no credit."""
    detail = (
        "You have insufficient credit to run this model. Go to"
        " https://replicate.com/account/billing#billing to purchase credit. Once you purchase"
        " credit, please wait a few minutes before trying again."
    )
    return problem({"title": "Insufficient credit", "detail": detail}, status=402)


def not_found() -> Response:
    """Return 404."""
    return problem({"title": "Not found", "detail": "Not found"}, status=404)


def bad_request(detail: str) -> Response:
    """Return 400: the request cannot be parsed."""
    return problem({"title": "Bad request", "detail": detail}, status=400)


def too_large(bytes_max: int) -> Response:
    """Return 413: the body is too large."""
    detail = f"The body is larger than {bytes_max} bytes"
    return problem({"title": "Request entity too large", "detail": detail}, status=413)


def invalid(fields: list[InvalidField]) -> Response:
    """Return 422 with the invalid fields."""
    body = {"title": "Input validation failed", "detail": detail_of(fields)}
    return problem({**body, "invalid_fields": fields}, status=422)


def unknown_version() -> Response:
    """Return 422: unknown model or version."""
    detail = (
        "The specified version does not exist (or perhaps you don't have permission to use it?)"
    )
    return problem({"title": "Invalid version or not permitted", "detail": detail}, status=422)


def throttled(wait_s: float, *, with_header: bool) -> Response:
    """Return 429 with the seconds to wait."""
    seconds = max(1, math.ceil(wait_s))
    detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    response = problem({"detail": detail, "retry_after": seconds}, status=429)
    if with_header:
        response.headers["retry-after"] = str(seconds)
    return response


def server_error() -> Response:
    """Return 500."""
    return problem({"title": "Internal server error", "detail": "Server error"}, status=500)


def unavailable() -> Response:
    """Return 503 as a proxy does without a backend."""
    page = "<html><head><title>503 Service Temporarily Unavailable</title></head></html>"
    return Response(page, 503, media_type="text/html")


def invalid_json() -> Response:
    """Return 200 with truncated JSON."""
    return Response('{"id": "ufawqhfynnddngldkgts', 200, media_type="application/json")
