"""Metering: what PostgreSQL alone knows of the line, looked up every few seconds for Prometheus.

Every replica says the same, so rules take the largest. While PostgreSQL is away nothing is known:
the figures are NaN then, which no rule takes for a number, and `segue_server_up` says why.

I/O: PostgreSQL.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from services.api.database import Database, gauges
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
)

EVERY_S = 5.0
_UNKNOWN = float("nan")


@dataclass(frozen=True, kw_only=True)
class GaugeUpdater:
    """Looks, for as long as it is told to."""

    database: Database
    clock: Clock

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop`; PostgreSQL may come and go."""
        for status in frozenset(RunStatus) - UNFINISHED:
            JOB_SECONDS.labels(status.value)  # 0 is a figure, too: the first failure is an increase
        while not stop.is_set():
            await self.look()
            await wait_or_stop(stop, EVERY_S)

    async def look(self) -> None:
        """Look once."""
        try:
            async with self.database.connection() as connection:
                outbox = await gauges.outbox_size(connection)
                runs = await gauges.unfinished_runs(connection)
        except RetryableError:
            _show_nothing()
            return
        OUTBOX_RECORDS.set(outbox.records)
        OUTBOX_OLDEST_SECONDS.set(self._since(outbox.oldest_at))
        for status in UNFINISHED:
            RUNS.labels(status.value).set(runs.by_status.get(status, 0))
        RUN_OLDEST_SECONDS.set(self._since(runs.oldest_at))

    def _since(self, moment: datetime | None) -> float:
        if moment is None:
            return 0.0
        return max(0.0, (self.clock.now() - moment).total_seconds())


def _show_nothing() -> None:
    for gauge in (OUTBOX_RECORDS, OUTBOX_OLDEST_SECONDS, RUN_OLDEST_SECONDS):
        gauge.set(_UNKNOWN)
    for status in UNFINISHED:
        RUNS.labels(status.value).set(_UNKNOWN)
