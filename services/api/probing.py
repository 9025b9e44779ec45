"""Probing: whether a server we need answers, asked at most once in a while.

I/O: whatever the probe asks.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from shared.clock import Clock
from shared.errors import RetryableError
from shared.settings import KafkaSettings

ANSWER_S = 3.0
AGAIN_S = 2.0  # however often readyz is asked


@dataclass(kw_only=True)
class Probe:
    """Asks one server."""

    name: str
    ask: Callable[[], Awaitable[None]]
    clock: Clock
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked_at: float | None = None
    _found: str | None = None

    async def problem(self) -> str | None:
        """What is wrong with the server; None: it answers."""
        async with self._lock:
            now = self.clock.monotonic()
            if self._asked_at is None or now - self._asked_at >= AGAIN_S:
                self._found = await self._ask()
                self._asked_at = self.clock.monotonic()
            return self._found

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self.ask()
        except TimeoutError:
            return f"no answer within {ANSWER_S:g} s"
        except RetryableError as error:
            return str(error)
        return None


async def ask_kafka(settings: KafkaSettings) -> None:
    """Return if a broker answers.

    Raises:
        RetryableError: none does.
    """
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers, client_id="segue-probe")
    try:
        await client.bootstrap()
    except KafkaError as error:
        raise RetryableError(f"Kafka at {settings.bootstrap_servers}: {error}") from error
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()
