"""A reader decodes every codec, and passes over a place that the broker cannot read."""

from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaProducer

from embedded.servers.broker import EmbeddedBroker
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Record, Undecodable
from shared.kafka.fetch import fetcher
from shared.kafka.log_reader import open_log_reader
from shared.settings import KafkaSettings
from shared.storage import StandInWarning
from tests.support.odd_batches import OddBatch, OddRecord, PartitionLog, publish_batch
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]
TOPIC = "scene.requested"
CODECS = (None, "gzip", "snappy", "lz4", "zstd")
LARGE = b"x" * 8192  # the broker's index has an entry for each batch


@pytest.fixture
def embedded() -> Iterator[str]:
    """The address of an embedded broker."""
    with pytest.warns(StandInWarning):
        broker = EmbeddedBroker()
    yield broker.start()
    broker.stop()


async def read_all(settings: KafkaSettings) -> list[Record]:
    """Return every record of the topic, as the commands and the rebuild read it."""
    records: list[Record] = []
    async with open_log_reader(settings, client_id="segue-test") as reader:
        for offsets in await reader.ranges(TOPIC):
            async for some in reader.read(offsets):
                records += some
    return records


async def test_every_codec_is_read_from_the_embedded_broker(embedded: str) -> None:
    """It stores the batches as their producers sent them."""
    for codec in CODECS:
        producer = AIOKafkaProducer(bootstrap_servers=embedded, compression_type=codec)
        await producer.start()
        try:
            await producer.send_and_wait(TOPIC, f"by {codec}".encode() * 99, partition=0)
        finally:
            await producer.stop()

    records = await read_all(KafkaSettings(bootstrap_servers=embedded))

    assert [record.value for record in records] == [f"by {codec}".encode() * 99 for codec in CODECS]


async def test_a_place_that_the_broker_cannot_read_is_passed_over(
    kafka: KafkaServer, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose length is damaged on the broker's disk; Kafka answers with an error."""
    if kafka.logs is None:
        pytest.skip("the broker's log is not on this machine")
    monkeypatch.setattr(fetcher, "UNREADABLE_S", 0.3)
    settings = KafkaSettings(
        bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix, partitions=1
    )
    await ensure_topics(settings)
    for token in (b"before", b"damaged", b"behind"):
        batch = OddBatch(records=[OddRecord(value=token + LARGE)]).encoded()
        await publish_batch(kafka.bootstrap, topic_prefix + TOPIC, batch)
    log = PartitionLog(kafka.logs / f"{topic_prefix}{TOPIC}-0")
    log.overwrite(b"damaged", 8, b"\0\0\0\x01")

    before, damaged, behind = await read_all(settings)

    assert (before.value, behind.value) == (b"before" + LARGE, b"behind" + LARGE)
    assert isinstance(damaged.value, Undecodable)
    assert (damaged.offset, damaged.value.first) == (1, 1)
