"""Updates the gauges of outbox, runs and uploads from PostgreSQL every few seconds.

Every replica exports the same values, so alert rules use the maximum. While PostgreSQL is
unavailable the gauges are NaN, which matches no rule; `segue_server_up` shows the cause.

I/O: PostgreSQL.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Database, gauges, uploads
from services.api.domain.run_view import UNFINISHED, RunStatus
from shared.clock import Clock
from shared.errors import RetryableError
from shared.processing.wait import wait_or_stop
from shared.telemetry.metrics import (
    JOB_SECONDS,
    OUTBOX_OLDEST_SECONDS,
    OUTBOX_RECORDS,
    RUN_OLDEST_SECONDS,
    RUNS,
    UPLOADS_UNREFERENCED,
    UPLOADS_UNREFERENCED_BYTES,
)

EVERY_S = 5.0
_UNKNOWN = float("nan")


@dataclass(frozen=True, kw_only=True)
class GaugeUpdater:
    """Reads the values from PostgreSQL and sets the gauges."""

    database: Database
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Update until `stop`, also across outages of PostgreSQL."""
        for status in frozenset(RunStatus) - UNFINISHED:
            JOB_SECONDS.labels(status.value)  # export 0, so that the first failure is an increase
        while not stop.is_set():
            await self.update()
            await wait_or_stop(stop, EVERY_S)

    async def update(self) -> None:
        """Update the gauges once."""
        try:
            async with self.database.connection() as connection:
                outbox = await gauges.outbox_size(connection)
                runs = await gauges.unfinished_runs(connection)
                unreferenced = await uploads.usage(connection)
        except RetryableError:
            _set_unknown()
            return
        OUTBOX_RECORDS.set(outbox.records)
        UPLOADS_UNREFERENCED.set(unreferenced.objects)
        UPLOADS_UNREFERENCED_BYTES.set(unreferenced.size_bytes)
        OUTBOX_OLDEST_SECONDS.set(self._age_s(outbox.oldest_at))
        for status in UNFINISHED:
            RUNS.labels(status.value).set(runs.by_status.get(status, 0))
        RUN_OLDEST_SECONDS.set(self._age_s(runs.oldest_at))

    def _age_s(self, moment: datetime | None) -> float:
        if moment is None:
            return 0.0
        return max(0.0, (self.clock.now() - moment).total_seconds())


def _set_unknown() -> None:
    for gauge in (
        OUTBOX_RECORDS,
        OUTBOX_OLDEST_SECONDS,
        RUN_OLDEST_SECONDS,
        UPLOADS_UNREFERENCED,
        UPLOADS_UNREFERENCED_BYTES,
    ):
        gauge.set(_UNKNOWN)
    for status in UNFINISHED:
        RUNS.labels(status.value).set(_UNKNOWN)
