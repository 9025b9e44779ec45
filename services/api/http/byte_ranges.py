"""Ranges: objects of the store as HTTP answers, whole or in part.

One range is served (206); several are answered with the whole, as RFC 9110 allows. A range that
lies behind the end is 416, one that cannot be read is no range. `If-None-Match` is answered
before `Range`, `If-Range` decides whether the range still speaks of the same bytes.

I/O: reads the store, chunk by chunk.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from services.api.http.problems import problem_response
from shared.storage import ObjectStat, ObjectStore

_RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `[start, end)`."""

    start: int
    end: int


class UnsatisfiableRangeError(ValueError):
    """The range lies behind the end."""


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """What a Range header asks for of an object; None: everything.

    Raises:
        UnsatisfiableRangeError: nothing of it is there.
    """
    match = _RANGE.match((header or "").strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if last and int(last) < start:
            return None
    if start >= size_bytes or start >= end:
        raise UnsatisfiableRangeError(header)
    return ByteRange(start, end)


def respond(
    request: Request, store: ObjectStore, found: ObjectStat, *, headers: Mapping[str, str]
) -> Response:
    """The answer to a GET or HEAD of an object."""
    etag = f'"{found.etag.strip(chr(34))}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag, **headers}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None  # the bytes changed since, or are named by a date: send them whole
    try:
        span = parse_range(wanted, found.size_bytes) if request.method == "GET" else None
    except UnsatisfiableRangeError:
        return problem_response(
            request,
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"there are {found.size_bytes} bytes",
            headers={**headers, "Content-Range": f"bytes */{found.size_bytes}"},
        )
    whole = span is None
    span = span or ByteRange(0, found.size_bytes)
    headers["Content-Length"] = str(span.end - span.start)
    headers["Content-Type"] = found.content_type
    if request.method == "HEAD":
        return Response(headers=headers)
    if not whole:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{found.size_bytes}"
    return StreamingResponse(
        store.stream(found.key, start=span.start, end=span.end),
        status_code=HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT,
        headers=headers,
    )


def attachment(name: str, ending: str) -> str:
    """A Content-Disposition that gives any job id as a file name (RFC 6266, RFC 8187)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    told = f'attachment; filename="{plain}{ending}"'
    if plain == name:
        return told
    return f"{told}; filename*=UTF-8''{quote(name + ending, safe='')}"


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    told = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in told or etag in told
