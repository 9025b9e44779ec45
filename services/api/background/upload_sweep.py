"""Deletes uploads that no job references: the old ones, and the oldest if there are too many.

Every replica runs the sweep, one at a time. The first sweep of a process also records files that
the table does not have, such as those of an older version. An upload that is in the table and not
in the store was not completed; it is removed from the table like any other.

Units: seconds, bytes. I/O: PostgreSQL, the object store.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.api.database import Database, uploads
from shared.clock import Clock
from shared.errors import RetryableError, SegueError
from shared.processing.wait import wait_or_stop
from shared.storage import ObjectStat, ObjectStore
from shared.storage.keys import UPLOADS_PREFIX
from shared.telemetry.log import Logger
from shared.telemetry.metrics import UPLOADS_DELETED_TOTAL

EVERY_S = 600.0
RECORDED_AT_ONCE = 1000
#: an upload younger than this is never deleted to make room: its request may be on the way
PROTECTED = timedelta(hours=1)


class UploadQuotaError(SegueError):
    """The uploads that no job references occupy too much; none of them is old enough to delete."""

    def __init__(self, *, size_bytes: int, used_bytes: int, bytes_max: int) -> None:
        super().__init__(
            f"no room for {size_bytes} bytes: uploads that no job references occupy {used_bytes} "
            f"bytes, at most {bytes_max} are allowed (SEGUE_UPLOAD_QUOTA_BYTES)"
        )


@dataclass(kw_only=True)
class UploadSweep:
    """Keeps the unreferenced uploads within their age and their quota."""

    database: Database
    store: ObjectStore
    quota_bytes: int
    retention_s: int
    clock: Clock
    log: Logger
    _is_recorded: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until `stop`, also across outages."""
        while not stop.is_set():
            try:
                await self.sweep()
            except RetryableError as error:
                self.log.warning("sweep failed", action="uploads.sweep_failed", reason=str(error))
            await wait_or_stop(stop, EVERY_S)

    async def sweep(self) -> int:
        """Delete the old unreferenced uploads; return how many."""
        if not self._is_recorded:
            await self._record_found()
            self._is_recorded = True
        async with self.database.transaction() as connection:
            await uploads.mark_referenced(connection)
        before = self.clock.now() - timedelta(seconds=self.retention_s)
        count = 0
        while await self._delete_oldest(before=before):
            count += 1
        if count:
            self.log.info("unreferenced uploads deleted", action="uploads.deleted", count=count)
        return count

    async def reserve(self, key: str, size_bytes: int) -> None:
        """Record an upload that is about to be stored, and delete older ones if there is no room.

        Raises:
            UploadQuotaError: there is no room.
        """
        used_bytes = 0
        while size_bytes <= self.quota_bytes:
            async with self.database.transaction() as connection:
                await uploads.lock_quota(connection)
                used_bytes = (await uploads.usage(connection, besides=key)).size_bytes
                if used_bytes + size_bytes <= self.quota_bytes:
                    await uploads.add(connection, key, size_bytes=size_bytes, now=self.clock.now())
                    return
            if not await self._delete_oldest(before=self.clock.now() - PROTECTED, wait=True):
                break
        raise UploadQuotaError(
            size_bytes=size_bytes, used_bytes=used_bytes, bytes_max=self.quota_bytes
        )

    async def _delete_oldest(self, *, before: datetime, wait: bool = False) -> bool:
        """Delete the oldest unreferenced upload; return False if there is none."""
        async with self.database.transaction() as connection:
            if not await uploads.lock_sweep(connection, wait=wait):
                return False
            key = await uploads.oldest_unreferenced(connection, before=before)
            if key is None:
                return False
            if not await uploads.lock_unreferenced(connection, key):
                await uploads.reference(connection, [key])
                return True
            await self.store.delete(key)
            await uploads.forget(connection, key)
        UPLOADS_DELETED_TOTAL.inc()
        return True

    async def _record_found(self) -> None:
        found: list[ObjectStat] = []
        async for stat in self.store.list_objects(UPLOADS_PREFIX):
            found.append(stat)
            if len(found) == RECORDED_AT_ONCE:
                await self._record(found)
                found = []
        await self._record(found)

    async def _record(self, found: list[ObjectStat]) -> None:
        async with self.database.transaction() as connection:
            await uploads.add_found(connection, found)
