"""Notices: who waits for news of a job, and the one connection that hears it.

PostgreSQL's NOTIFY reaches every replica, so any of them can serve any client. A lost
connection may have missed news: when it is back, everyone is woken to look.

I/O: PostgreSQL (LISTEN).
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.api.database import JOBS_CHANNEL, Database
from shared.errors import RetryableError
from shared.processing.wait import wait_or_stop
from shared.telemetry.log import Logger

AGAIN_S = 1.0
CHECK_S = 10.0


class TooManyListenersError(RetryableError):
    """As many clients follow jobs here as may."""


@dataclass(kw_only=True)
class JobNotifications:
    """Wakes those who wait for news of a job."""

    database: Database
    listeners_max: int
    log: Logger
    _waiting: dict[str, set[asyncio.Event]] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`; PostgreSQL may come and go."""
        while not stop.is_set():
            try:
                async with self.database.dedicated() as connection:
                    await connection.add_listener(JOBS_CHANNEL, self._heard)
                    self._wake_all()
                    while not stop.is_set():
                        await connection.execute("SELECT 1")  # says if the connection is lost
                        await wait_or_stop(stop, CHECK_S)
            except RetryableError as error:
                self.log.warning(
                    "PostgreSQL unavailable; status streams wait",
                    action="dependency.unavailable",
                    dependency="postgres",
                    reason=str(error),
                )
                await wait_or_stop(stop, AGAIN_S)
        self._wake_all()

    def check_capacity(self) -> None:
        """Return if one more may follow.

        Raises:
            TooManyListenersError: the bound is reached.
        """
        if sum(map(len, self._waiting.values())) >= self.listeners_max:
            raise TooManyListenersError("too many followers here", retry_after_s=10)

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever there is news of the job.

        Raises:
            TooManyListenersError: the bound is reached.
        """
        self.check_capacity()
        news = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(news)
        try:
            yield news
        finally:
            self._waiting[job_id].discard(news)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _heard(self, _connection: object, _pid: int, _channel: str, job_id: object) -> None:
        for news in self._waiting.get(str(job_id), ()):
            news.set()

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for news in waiting:
                news.set()
