"""Receives uploads, a limited number at a time, and stores each file once.

A slot is taken once the first bytes are here, so a client that sends none holds none. If all slots
are taken, the slowest upload gives its slot to the next one, unless it is fast enough.

Units: bytes, seconds. I/O: the request's body, a temporary file, the store.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import Request

from services.api.background.upload_sweep import UploadQuotaError
from services.api.http.problems import ProblemError
from services.api.http.request_body import (
    BodyLimits,
    ReceivedFile,
    media_type,
    receive_parts,
    saved_file,
)
from shared.storage.keys import upload_key

if TYPE_CHECKING:
    from services.api.http.context import ApiContext

BUSY_S = 10
FULL_S = 600
FRESH = timedelta(days=1)
FIRST_BYTES = 64 * 1024  # received before a slot is taken
SAFE_RATE_FACTOR = 8  # times the minimum rate: an upload this fast keeps its slot
HANDOVER_S = 5.0
_TYPES = ("video/", "audio/", "application/octet-stream", "application/mp4", "application/ogg")


@dataclass(kw_only=True, eq=False)
class Transfer:
    """An upload that holds a slot."""

    started_s: float
    deadline: asyncio.Timeout
    received: int = 0
    is_receiving: bool = True
    is_ended: bool = False  #: its slot was given to another one


@dataclass(kw_only=True)
class UploadSlots:
    """The uploads in progress."""

    count: int
    rate_min: int
    safe_s: float = 10.0  #: an upload keeps its slot for this long at any rate
    _transfers: list[Transfer] = field(default_factory=list)
    _freed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Transfer]:
        """Yield a slot, if necessary that of a slow upload.

        Raises:
            ProblemError: all uploads in progress are fast (503), or this one lost its slot (408).
        """
        await self._wait_for_slot()
        loop = asyncio.get_running_loop()
        transfer = Transfer(started_s=loop.time(), deadline=asyncio.timeout(None))
        self._transfers.append(transfer)
        try:
            async with transfer.deadline:
                yield transfer
        except TimeoutError as error:
            if not transfer.is_ended:
                raise
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                "the upload is slow and its slot was given to another one: retry later, or over a "
                "faster connection",
                headers={"Retry-After": str(BUSY_S)},
            ) from error
        finally:
            self._transfers.remove(transfer)
            async with self._freed:
                self._freed.notify()

    async def _wait_for_slot(self) -> None:
        if len(self._transfers) < self.count:
            return
        loop = asyncio.get_running_loop()
        slow = [one for one in self._transfers if self._is_slow(one, now_s=loop.time())]
        if slow:
            slowest = min(slow, key=lambda one: one.received / (loop.time() - one.started_s))
            slowest.is_ended = True
            slowest.deadline.reschedule(loop.time())
            try:
                async with asyncio.timeout(HANDOVER_S), self._freed:
                    await self._freed.wait_for(lambda: len(self._transfers) < self.count)
            except TimeoutError:
                pass
            else:
                return
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"too many concurrent uploads; retry in {BUSY_S} s",
            headers={"Retry-After": str(BUSY_S)},
        )

    def _is_slow(self, one: Transfer, *, now_s: float) -> bool:
        age_s = now_s - one.started_s
        rate = one.received / age_s if age_s else 0.0
        is_running = one.is_receiving and not one.is_ended
        return is_running and age_s > self.safe_s and rate < SAFE_RATE_FACTOR * self.rate_min


@asynccontextmanager
async def receive_upload(
    request: Request, context: "ApiContext", *, bytes_max: int
) -> AsyncIterator[ReceivedFile]:
    """Yield the uploaded body as a temporary file, deleted afterwards.

    Raises:
        ProblemError: not a media type (415), too many concurrent uploads (503), or as
            `receive_parts`.
    """
    _check_type(request)
    settings = context.settings.limits
    limits = BodyLimits(
        bytes_max=bytes_max,
        stall_s=settings.receive_s,
        rate_min=settings.receive_rate_min,
        total_s=settings.upload_s,
    )
    parts = receive_parts(request, limits)
    first = bytearray()
    async for part in parts:
        first += part
        if len(first) >= FIRST_BYTES:
            break
    async with context.uploads.slot() as transfer:

        async def all_parts() -> AsyncIterator[bytes]:
            yield bytes(first)
            async for part in parts:
                transfer.received += len(part)
                yield part
            transfer.is_receiving = False

        async with (
            context.scratch.folder() as folder,
            saved_file(all_parts(), folder=folder.path, reserve=folder.reserve) as received,
        ):
            yield received


async def store_upload(context: "ApiContext", received: ReceivedFile, *, content_type: str) -> str:
    """Store the file and return its key; the same bytes are stored once.

    An older copy is written again, because an upload that is old and not referenced by any job
    may be deleted by `segue store sweep` at any time.

    Raises:
        ProblemError: uploads that no job references occupy too much (507).
    """
    key = upload_key(received.sha256)
    try:
        await context.upload_sweep.reserve(key, received.size_bytes)
    except UploadQuotaError as error:
        raise ProblemError(
            HTTPStatus.INSUFFICIENT_STORAGE,
            f"{error}: start jobs with them, or retry later",
            headers={"Retry-After": str(FULL_S)},
        ) from error
    stat = await context.store.stat(key)
    is_complete = stat is not None and stat.size_bytes == received.size_bytes
    if stat is None or not is_complete or context.clock.now() - stat.modified_at > FRESH:
        await context.store.put_file(key, received.path, content_type=content_type)
    return key


def _check_type(request: Request) -> None:
    """Raise if the body is declared as a form or as text, which a page of any site can send.

    `curl -F` sends the file as a field of a form.
    """
    kind = media_type(request)
    if kind and not kind.startswith(_TYPES):
        what = f"the body is a form ({kind})" if "form" in kind else f"the body is {kind[:100]}"
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"{what}: send the file as the request body, e.g. "
            "curl --data-binary @FILE -H 'Content-Type: application/octet-stream' "
            f"{request.url.replace(query='')}",
            headers={"Connection": "close"},
        )
