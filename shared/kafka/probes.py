"""Checks whether Kafka and the store are available, for `readyz` and at start.

I/O: Kafka, the store.
"""

import contextlib

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from shared.clock import Clock
from shared.http.probes import Probe
from shared.kafka.admin import ensure_topics
from shared.kafka.client import connection_options, unavailable
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from shared.storage import ObjectStore


def server_probes(kafka: KafkaSettings, store: ObjectStore, *, clock: Clock) -> list[Probe]:
    """Return the probes of the two servers that every service needs."""
    return [
        Probe(name="kafka", call=lambda: check_kafka(kafka), clock=clock),
        Probe(name="store", call=store.check, clock=clock),
    ]


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
    """
    await ensure_topics(settings)
    await publisher.start()
