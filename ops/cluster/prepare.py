"""Prepare: make the topics and the bucket before anything needs them.

Each service does this for itself, where its account may. A deployment where accounts may not, or
where services should start on a cluster that is ready, runs this once before them. Idempotent:
what is there stays as it is. A store on which a claim would not hold is refused here, before
anybody pays twice on it.

Units: seconds. I/O: Kafka and the object store.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ops.cli.exit_codes import CommandError, Exit
from shared.errors import RetryableError
from shared.kafka.admin import ensure_topics, required_topics
from shared.settings import KafkaSettings, StoreSettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.keys import trial_key

AGAIN_S = 1.0
Say = Callable[[str], None]
T = TypeVar("T")


def prepare(*, within_s: float, say: Say) -> dict[str, Any]:
    """Make what is missing, waiting `within_s` at most for the servers; what was made.

    Raises:
        SettingsError: the environment is wrong.
        CommandError: a server did not answer in time, or refused; or the store is of no use.
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
        if not await _until(end, lambda: keeps_the_first(store), say):
            raise CommandError(
                Exit.FAILED,
                f"the object store at {settings.endpoint} writes over what is there, although it is"
                " told not to (If-None-Match: *): two generators would pay for one scene. Use a"
                " server that honours it; docs/production.md names some",
            )
    finally:
        await store.close()
    place = str(settings.folder or settings.bucket)
    return {"topics": len(required_topics(kafka)), "topics_made": made, "store": place}


async def keeps_the_first(store: ObjectStore) -> bool:
    """Whether of two who create the same object the second is told so; claims stand on it."""
    key = trial_key(secrets.token_hex(8))
    try:
        told = [await store.put_if_absent(key, data) for data in (b"first", b"second")]
        return told == [True, False] and await store.get(key) == b"first"
    finally:
        await store.delete(key)


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
