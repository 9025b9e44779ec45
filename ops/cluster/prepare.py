"""Creates the topics and the bucket before the services need them.

Each service does this itself if its account may. A deployment where accounts may not, or where
services should start on a prepared cluster, runs this once before them. Idempotent: what exists is
not changed. A store that does not honour conditional writes is rejected here, because two
generators could pay for one scene on it.

Units: seconds. I/O: Kafka and the object store.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ops.cli.exit_codes import CommandError, Exit
from shared.clock import SystemClock
from shared.errors import RetryableError
from shared.kafka.admin import ensure_topics, required_topics
from shared.processing.retry import RetryPolicy, retrying
from shared.settings import KafkaSettings, StoreSettings
from shared.storage import ObjectStore
from shared.storage.factory import open_store
from shared.storage.keys import trial_key

RETRY = RetryPolicy(first_s=1.0, max_s=1.0, attempts_max=None)
Notify = Callable[[str], None]
T = TypeVar("T")


def prepare(*, timeout_s: float, notify: Notify) -> dict[str, Any]:
    """Create what is missing within `timeout_s`; return what was created.

    Raises:
        SettingsError: the environment is wrong.
        CommandError: a server did not answer in time or refused, or the store is unsuitable.
    """
    # create_topics is the services' setting; this command always creates them
    kafka = KafkaSettings.from_environment(create_topics=True)
    store = StoreSettings.from_environment()
    return asyncio.run(_prepare(kafka, store, timeout_s=timeout_s, notify=notify))


async def _prepare(
    kafka: KafkaSettings, settings: StoreSettings, *, timeout_s: float, notify: Notify
) -> dict[str, Any]:
    end = asyncio.get_running_loop().time() + timeout_s
    store = open_store(settings)
    try:
        created = await _retry_until(end, lambda: ensure_topics(kafka), notify)
        await _retry_until(end, store.prepare, notify)
        await _retry_until(end, store.check, notify)
        if not await _retry_until(end, lambda: honours_put_if_absent(store), notify):
            raise CommandError(
                Exit.FAILED,
                f"the object store at {settings.endpoint} ignores If-None-Match: * and overwrites "
                "an existing object, so two generators could pay for one scene; use a server that "
                "honours it (docs/production.md names some)",
            )
    finally:
        await store.close()
    location = str(settings.folder or settings.bucket)
    return {"topics": len(required_topics(kafka)), "topics_made": created, "store": location}


async def honours_put_if_absent(store: ObjectStore) -> bool:
    """Return whether a second conditional write fails; claims rely on it."""
    key = trial_key(secrets.token_hex(8))
    try:
        created = [await store.put_if_absent(key, data) for data in (b"first", b"second")]
        return created == [True, False] and await store.get(key) == b"first"
    finally:
        await store.delete(key)


async def _retry_until(end: float, action: Callable[[], Awaitable[T]], notify: Notify) -> T:
    """Retry `action` until it succeeds or `end`; report each new reason once."""
    last_reason = ""

    def report(error: Exception, _delay_s: float) -> None:
        nonlocal last_reason
        reason = str(error) or last_reason or "no answer"
        if reason != last_reason:
            notify(f"waiting: {reason}")
        last_reason = reason

    try:
        async with asyncio.timeout_at(end):
            return await retrying(
                action,
                policy=RETRY,
                clock=SystemClock(),
                on_retry=report,
                errors=(RetryableError, TimeoutError),
            )
    except TimeoutError as error:
        reason = last_reason or "no answer"
        raise CommandError(Exit.UNREACHABLE, f"timed out waiting: {reason}") from error
