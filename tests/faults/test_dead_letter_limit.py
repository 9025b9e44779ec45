"""A run of dead letters means that the fault is ours: the service stops, its topic is intact."""

import asyncio
import sys
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.clock import SystemClock
from shared.contract.events import SceneRequested, SegmentGenerated
from shared.contract.topics import DLQ_SUFFIX
from shared.kafka.admin import ensure_topics
from shared.kafka.producer import Publisher
from shared.settings import KafkaSettings
from tests.support.processes import records_of, services
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
RECORDS, LIMIT = 300, 5
TOPICS = {"generator": SceneRequested.kind, "merger": SegmentGenerated.kind}


async def _nonsense(kafka: KafkaSettings, topic: str) -> None:
    """Records that nobody can read, each of another job."""
    await ensure_topics(kafka)
    publisher = Publisher(kafka, source="test", clock=SystemClock())
    await publisher.start()
    try:
        for number in range(RECORDS):
            key = f"job-{number}".encode()
            await publisher.send(topic=topic, key=key, value=b'{"job_id": ', headers=())
    finally:
        await publisher.stop()


async def _committed(kafka: KafkaSettings, group: str, topic: str) -> int:
    """How many records the group has let go."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=group)
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(kafka.partitions)]
        return sum([await consumer.committed(place) or 0 for place in places])
    finally:
        await consumer.stop()


@pytest.mark.parametrize("name", TOPICS)
async def test_a_run_of_dead_letters_stops_the_service_and_leaves_the_rest_on_its_topic(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path, name: str
) -> None:
    """Exit code 1 after the limit, and what lies behind it is neither given up nor let go."""
    told = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix)
    await _nonsense(told, TOPICS[name])
    environment = {
        **kafka.environment(),
        "SEGUE_TOPIC_PREFIX": topic_prefix,
        "SEGUE_STORE_DIR": str(tmp_path / "store"),
        "SEGUE_DEAD_LETTERS_MAX": str(LIMIT),
        "MUSIC_PROVIDER": "silence",
    }
    async with services(name, environment=environment, folder=tmp_path) as started:
        async with asyncio.timeout(120):
            code = await started[name].wait()
        log = started[name].log.read_text()
    letters = await records_of(kafka.bootstrap, TOPICS[name] + DLQ_SUFFIX, prefix=topic_prefix)
    let_go = await _committed(told, f"{topic_prefix}segue-{name}", topic_prefix + TOPICS[name])

    sys.stdout.write(
        f"{name}: {RECORDS} records that nobody can read, limit {LIMIT}: ended with {code},"
        f" dead letters {len(letters)}, let go {let_go}, left on the topic {RECORDS - let_go}\n"
    )
    assert code == 1
    assert f"{LIMIT} dead letters in a row" in log
    assert len(letters) == LIMIT
    assert let_go < LIMIT
