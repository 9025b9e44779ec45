"""Checks whether Kafka and the store are available, for `readyz` and at start.

I/O: Kafka, the store.
"""

import contextlib
from collections.abc import Callable

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from shared.clock import Clock
from shared.errors import RetryableError, SegueError
from shared.http.probes import Probe
from shared.kafka.admin import ensure_topics
from shared.kafka.client import connection_options, unavailable
from shared.kafka.fetch.record_batches import missing_codecs
from shared.kafka.producer import Publisher
from shared.kafka.router import Router
from shared.settings import KafkaSettings
from shared.storage import ObjectStore

PROGRESS = "progress"
STUCK_S = 60.0  # as the alerts


def server_probes(kafka: KafkaSettings, store: ObjectStore, *, clock: Clock) -> list[Probe]:
    """Return the probes of the two servers that every service needs."""
    return [
        Probe(name="kafka", call=lambda: check_kafka(kafka), clock=clock),
        Probe(name="store", call=store.check, clock=clock),
    ]


def progress_probe(router: Router, commit_due_s: Callable[[], float], *, clock: Clock) -> Probe:
    """Return the probe that fails while finished work cannot be published or committed."""

    async def check() -> None:
        blocked_s, due_s = router.blocked.oldest_s(), commit_due_s()
        if blocked_s > STUCK_S:
            raise RetryableError(
                f"a record has waited {blocked_s:.0f} s to be published: {router.blocked.reason}"
            )
        if due_s > STUCK_S:
            raise RetryableError(f"no offset could be committed for {due_s:.0f} s")

    return Probe(name=PROGRESS, call=check, clock=clock)


def check_codecs() -> None:
    """Return if every compression codec of Kafka can be decoded.

    Raises:
        SegueError: one cannot; records compressed with it would all be dead letters.
    """
    if missing := missing_codecs():
        raise SegueError(f"Kafka codecs not available: {', '.join(missing)}; install cramjam")


async def check_kafka(settings: KafkaSettings) -> None:
    """Return if a broker is available.

    Raises:
        RetryableError: none is.
    """
    client = AIOKafkaClient(**connection_options(settings), client_id="segue-probe")
    try:
        await client.bootstrap()
    except KafkaError as error:
        raise unavailable(settings, error) from error
    finally:
        with contextlib.suppress(KafkaError, OSError):
            await client.close()


async def connect_publisher(publisher: Publisher, settings: KafkaSettings) -> None:
    """Create the missing topics and connect `publisher`.

    Raises:
        RetryableError: no broker is available.
        SegueError: a compression codec is not available.
    """
    check_codecs()
    await ensure_topics(settings)
    await publisher.start()
