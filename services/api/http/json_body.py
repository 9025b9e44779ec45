"""Receives JSON bodies, and reads them where they cannot block or exhaust the service.

The shape of a body is checked before it is parsed: a few megabytes of text can hold millions of
values, each of which takes fifty times its size in memory. A large body is parsed in a thread, one
at a time, so that other requests are answered meanwhile. A name that occurs twice in an object is
rejected: which of its values counts would depend on the reader.

Units: bytes, seconds.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request

from services.api.domain.run_spec import RequestInvalidError
from services.api.http.problems import ProblemError
from services.api.http.request_body import BodyLimits, media_type, receive_parts
from services.api.settings import LimitSettings

JSON_S = 60.0  # for a whole body
HELD_BYTES_MAX = 64 * 1024 * 1024  # of all bodies in memory
INLINE_BYTES = 16 * 1024  # a larger body is parsed in a thread
DEPTH_MAX = 32
DIGITS_MAX = 100
VALUES_MIN = 10_000  # of any body
SCENE_VALUES_MAX = 32  # of one scene
BUSY_S = 2
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_OTHER = bytes(set(range(256)) - set(b"{}[],"))
_OPENING, _CLOSING = b"{[", b"}]"
T = TypeVar("T")


class JsonBodies:
    """Receives and parses the JSON bodies of this process."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._held_bytes = 0
        self._parsing = asyncio.Semaphore(1)

    @asynccontextmanager
    async def received(self, request: Request, *, bytes_max: int) -> AsyncIterator[bytes]:
        """Yield the body of a JSON request; it counts as held in memory until the block ends.

        Raises:
            ProblemError: the Content-Type is not JSON (415), the body is too large (413) or too
                slow (408), or all bodies together take too much memory (503).
        """
        check_type(request)
        limits = BodyLimits(
            bytes_max=bytes_max,
            stall_s=self._limits.receive_s,
            rate_min=self._limits.receive_rate_min,
            total_s=JSON_S,
        )
        parts: list[bytes] = []
        held = 0
        try:
            async for part in receive_parts(request, limits):
                parts.append(part)
                held += len(part)
                self._held_bytes += len(part)
                if self._held_bytes > HELD_BYTES_MAX:
                    raise ProblemError(
                        HTTPStatus.SERVICE_UNAVAILABLE,
                        f"too many large requests at once; retry in {BUSY_S} s",
                        headers={"Retry-After": str(BUSY_S)},
                    )
            yield b"".join(parts)
        finally:
            self._held_bytes -= held

    async def parse(self, raw: bytes, parse: Callable[[bytes], T]) -> T:
        """Return `parse(raw)`, once the shape of the body is checked.

        Raises:
            ProblemError: the body is too deep, or has a name or a number that is not acceptable.
            RequestInvalidError: it has too many values or scenes.
        """

        def checked() -> T:
            check_shape(raw, scenes_max=self._limits.scenes_max)
            return parse(raw)

        if len(raw) <= INLINE_BYTES:
            return checked()
        async with self._parsing:
            return await asyncio.to_thread(checked)


def check_type(request: Request) -> None:
    """Raise if the Content-Type is not JSON; a page of another site can send any other one.

    Raises:
        ProblemError: it is another type, or is missing (415).
    """
    kind = media_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        given = f"unsupported Content-Type {kind[:100]!r}" if kind else "Content-Type is missing"
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{given}: send JSON with Content-Type: application/json",
        )


def check_shape(raw: bytes, *, scenes_max: int) -> None:
    """Raise if the JSON text in `raw` is not safe to parse; other syntax errors pass.

    Raises:
        ProblemError: it is too deep, an object has a name twice, or a number is too long.
        RequestInvalidError: it has too many values or scenes.
    """
    values_max = max(VALUES_MIN, SCENE_VALUES_MAX * scenes_max)
    strings_max = 2 * values_max  # names and values
    quotes = raw.count(b'"') - raw.count(b'\\"')  # escaped ones are text
    structure = b"" if quotes > 2 * strings_max else _STRING.sub(b"", raw).translate(None, _OTHER)
    if quotes > 2 * strings_max or len(structure) > 2 * values_max:
        message = (
            f"the body has more than {values_max} values: at most {scenes_max} scenes are allowed "
            "(SEGUE_SCENES_MAX)"
        )
        raise RequestInvalidError([("scenes", message)])
    depth = 0
    for byte in structure:
        depth += (byte in _OPENING) - (byte in _CLOSING)
        if depth > DEPTH_MAX:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                f"the body is nested too deeply: at most {DEPTH_MAX} levels are allowed",
            )
    _check_values(raw, scenes_max=scenes_max)


def _check_values(raw: bytes, *, scenes_max: int) -> None:
    try:
        body = json.loads(raw.decode(), object_pairs_hook=_object, parse_int=_integer)
    except ValueError:
        return  # the reader of the body explains a syntax error
    scenes = body.get("scenes") if isinstance(body, dict) else None
    if isinstance(scenes, list) and len(scenes) > scenes_max:
        message = f"has {len(scenes)} scenes, at most {scenes_max} are allowed (SEGUE_SCENES_MAX)"
        raise RequestInvalidError([("scenes", message)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST, f"the body has the name {name[:100]!r} twice in one object"
            )
        values[name] = value
    return values


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise ProblemError(
            HTTPStatus.BAD_REQUEST,
            f"a number has {len(digits)} digits, at most {DIGITS_MAX} are allowed",
        )
    return int(digits)
