"""Prepare: make the topics and the bucket before anything needs them.

Each service does this for itself, where its account may. A deployment where accounts may not, or
where services should start on a cluster that is ready, runs this once before them. Idempotent:
what is there stays as it is.

Units: seconds. I/O: Kafka and the object store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ops.exits import CommandError, Exit
from shared.errors import RetryableError
from shared.kafka.admin import ensure_topics, wanted
from shared.settings import KafkaSettings, StoreSettings
from shared.storage.opening import open_store

AGAIN_S = 1.0
Say = Callable[[str], None]
T = TypeVar("T")


def prepare(*, within_s: float, say: Say) -> dict[str, Any]:
    """Make what is missing, waiting `within_s` at most for the servers; what was made.

    Raises:
        SettingsError: the environment is wrong.
        CommandError: a server did not answer in time, or refused.
    """
    # asked for by name: the services' own setting is about what they do unasked
    kafka = KafkaSettings.from_environment(create_topics=True)
    store = StoreSettings.from_environment()
    return asyncio.run(_prepare(kafka, store, within_s=within_s, say=say))


async def _prepare(
    kafka: KafkaSettings, settings: StoreSettings, *, within_s: float, say: Say
) -> dict[str, Any]:
    end = asyncio.get_running_loop().time() + within_s
    store = open_store(settings)
    try:
        made = await _until(end, lambda: ensure_topics(kafka), say)
        await _until(end, store.prepare, say)
        await _until(end, store.check, say)
    finally:
        await store.close()
    place = str(settings.folder or settings.bucket)
    return {"topics": len(wanted(kafka)), "topics_made": made, "store": place}


async def _until(end: float, do: Callable[[], Awaitable[T]], say: Say) -> T:
    """`do` until it is done or `end` has come; each new reason to wait is said once."""
    last = ""
    while True:
        try:
            async with asyncio.timeout_at(end):
                return await do()
        except (RetryableError, TimeoutError) as error:
            why = str(error) or last or "no answer"
            if asyncio.get_running_loop().time() + AGAIN_S > end:
                raise CommandError(Exit.UNREACHABLE, f"gave up waiting: {why}") from error
            if why != last:
                say(f"waiting: {why}")
            last = why
            await asyncio.sleep(AGAIN_S)
