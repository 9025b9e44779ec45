"""Notifies the status streams of a job when its row changes.

PostgreSQL's NOTIFY reaches every replica, so any replica can serve any client. Notifications are
lost while the connection is down: after a reconnect all streams are woken and read the status.

I/O: PostgreSQL (LISTEN).
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from services.api.database import JOBS_CHANNEL, Database
from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.processing.retry import RetryPolicy, restarting
from shared.processing.wait import wait_or_stop
from shared.telemetry.log import Logger

RETRY = RetryPolicy(first_s=1.0, max_s=1.0, attempts_max=None)
CHECK_S = 10.0


class TooManyListenersError(RetryableError):
    """The limit of status streams in this process is reached."""


@dataclass(kw_only=True)
class JobNotifications:
    """Wakes the status streams of a job."""

    database: Database
    listeners_max: int
    log: Logger
    _waiting: dict[str, set[asyncio.Event]] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until `stop`; reconnect after an outage of PostgreSQL."""

        async def listen() -> None:
            async with self.database.dedicated() as connection:
                await connection.add_listener(JOBS_CHANNEL, self._on_notify)
                self._wake_all()
                while not stop.is_set():
                    await connection.execute("SELECT 1")  # fails if the connection is lost
                    await wait_or_stop(stop, CHECK_S)

        def log_retry(error: Exception, _delay_s: float) -> None:
            self.log.warning(
                "PostgreSQL unavailable; status streams wait",
                action="dependency.unavailable",
                dependency="postgres",
                reason=str(error),
            )

        await restarting(listen, stop=stop, policy=RETRY, clock=SystemClock(), on_retry=log_retry)
        self._wake_all()

    def check_capacity(self) -> None:
        """Raise if no further stream is allowed.

        Raises:
            TooManyListenersError: the limit is reached.
        """
        if sum(map(len, self._waiting.values())) >= self.listeners_max:
            raise TooManyListenersError("too many concurrent status streams", retry_after_s=10)

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever the job changes.

        Raises:
            TooManyListenersError: the limit is reached.
        """
        self.check_capacity()
        changed = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(changed)
        try:
            yield changed
        finally:
            self._waiting[job_id].discard(changed)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _on_notify(self, _connection: object, _pid: int, _channel: str, job_id: object) -> None:
        for changed in self._waiting.get(str(job_id), ()):
            changed.set()

    def _wake_all(self) -> None:
        for waiting in self._waiting.values():
            for changed in waiting:
                changed.set()
