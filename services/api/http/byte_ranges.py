"""Serves stored objects over HTTP, whole or as one byte range.

One range is served (206); several ranges return the whole object, as RFC 9110 allows. A range
beyond the end is 416; a malformed range is ignored. `If-None-Match` is evaluated before `Range`;
`If-Range` decides whether the range still refers to the same bytes.

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
    """The range is beyond the end of the object."""


def parse_range(header: str | None, size_bytes: int) -> ByteRange | None:
    """Return the range that a Range header requests; None: the whole object.

    Raises:
        UnsatisfiableRangeError: the range is beyond the end.
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
    request: Request, store: ObjectStore, stat: ObjectStat, *, headers: Mapping[str, str]
) -> Response:
    """Return the response to a GET or HEAD of an object."""
    etag = f'"{stat.etag.strip(chr(34))}"'
    headers = {"Accept-Ranges": "bytes", "ETag": etag, **headers}
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    range_header = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        range_header = None  # the object changed, or If-Range is a date: send the whole object
    try:
        span = parse_range(range_header, stat.size_bytes) if request.method == "GET" else None
    except UnsatisfiableRangeError:
        return problem_response(
            request,
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"the range is beyond the end: the file has {stat.size_bytes} bytes",
            headers={**headers, "Content-Range": f"bytes */{stat.size_bytes}"},
        )
    whole = span is None
    span = span or ByteRange(0, stat.size_bytes)
    headers["Content-Length"] = str(span.end - span.start)
    headers["Content-Type"] = stat.content_type
    if request.method == "HEAD":
        return Response(headers=headers)
    if not whole:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{stat.size_bytes}"
    return StreamingResponse(
        store.stream(stat.key, start=span.start, end=span.end),
        status_code=HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT,
        headers=headers,
    )


def attachment(name: str, ending: str) -> str:
    """Return a Content-Disposition with any job id as file name (RFC 6266, RFC 8187)."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    disposition = f'attachment; filename="{plain}{ending}"'
    if plain == name:
        return disposition
    return f"{disposition}; filename*=UTF-8''{quote(name + ending, safe='')}"


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    etags = [value.strip().removeprefix("W/") for value in header.split(",")]
    return "*" in etags or etag in etags
