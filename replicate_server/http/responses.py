"""Answers: Replicate's refusals, word for word where they were seen.

Seen: 401, 402, 422 (fields, version) and 429. Of 404, 500, 503 and of a body that is no JSON
only the shape is known, or nothing. Pure.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from replicate_server.http.request_schema import InvalidField, detail_of


def json_response(body: Mapping[str, Any], *, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(json.dumps(body) + "\n", status, media_type="application/json")


def problem(body: Mapping[str, Any], *, status: int) -> Response:
    """A JSON answer that says no."""
    content = json.dumps({**body, "status": status}) + "\n"
    return Response(content, status, media_type="application/problem+json")


def unauthenticated() -> Response:
    """The token is none, or none any more."""
    detail = "You did not pass a valid authentication token"
    return problem({"title": "Unauthenticated", "detail": detail}, status=401)


def without_credit() -> Response:
    """Nothing is made until somebody pays."""
    detail = (
        "You have insufficient credit to run this model. Go to"
        " https://replicate.com/account/billing#billing to purchase credit. Once you purchase"
        " credit, please wait a few minutes before trying again."
    )
    return problem({"title": "Insufficient credit", "detail": detail}, status=402)


def not_found() -> Response:
    """There is no such thing, or not any more."""
    return problem({"title": "Not found", "detail": "Not found"}, status=404)


def bad_request(detail: str) -> Response:
    """What was sent cannot be read."""
    return problem({"title": "Bad request", "detail": detail}, status=400)


def too_large(bytes_max: int) -> Response:
    """The body is beyond all measure."""
    detail = f"The body is larger than {bytes_max} bytes"
    return problem({"title": "Request entity too large", "detail": detail}, status=413)


def invalid(found: list[InvalidField]) -> Response:
    """Fields are not what they should be."""
    body = {"title": "Input validation failed", "detail": detail_of(found)}
    return problem({**body, "invalid_fields": found}, status=422)


def unknown_version() -> Response:
    """This model or version is not here."""
    detail = (
        "The specified version does not exist (or perhaps you don't have permission to use it?)"
    )
    return problem({"title": "Invalid version or not permitted", "detail": detail}, status=422)


def throttled(wait_s: float, *, with_header: bool) -> Response:
    """Too much was asked for in too short a time."""
    seconds = max(1, math.ceil(wait_s))
    detail = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    answer = problem({"detail": detail, "retry_after": seconds}, status=429)
    if with_header:
        answer.headers["retry-after"] = str(seconds)
    return answer


def broken() -> Response:
    """Something went wrong inside."""
    return problem({"title": "Internal server error", "detail": "Server error"}, status=500)


def unavailable() -> Response:
    """What a proxy says when nobody is behind it."""
    page = "<html><head><title>503 Service Temporarily Unavailable</title></head></html>"
    return Response(page, 503, media_type="text/html")


def garbled() -> Response:
    """A 200 that breaks off in the middle of its JSON."""
    return Response('{"id": "ufawqhfynnddngldkgts', 200, media_type="application/json")
