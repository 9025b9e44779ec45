"""Consecutive dead letters stop the service; the rest of the topic is not consumed."""

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
from shared.storage.filesystem import FolderStore
from shared.storage.keys import segment_key
from tests.support.event_builders import a_scene, a_segment
from tests.support.processes import records_of, services
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
RECORDS, LIMIT = 300, 5
TOPICS = {"generator": SceneRequested.kind, "merger": SegmentGenerated.kind}


def _event(topic: str, number: int) -> SceneRequested | SegmentGenerated:
    """Return a valid event that its service cannot process, of its own job."""
    job_id = f"job-{number}"
    if topic == SceneRequested.kind:
        return a_scene(1, job_id=job_id)  # its first scene was never requested
    return a_segment(1, count=2, job_id=job_id)  # what is stored for the first is no segment


async def _publish_failing(kafka: KafkaSettings, topic: str) -> None:
    """Publish records that fail, each of another job."""
    await ensure_topics(kafka)
    publisher = Publisher(kafka, source="test", clock=SystemClock())
    await publisher.start()
    try:
        for number in range(RECORDS):
            await publisher.publish(_event(topic, number))
    finally:
        await publisher.stop()


async def _committed(kafka: KafkaSettings, group: str, topic: str) -> int:
    """Return the number of records that the group has committed."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=group)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(kafka.partitions)]
        return sum([await consumer.committed(partition) or 0 for partition in partitions])
    finally:
        await consumer.stop()


@pytest.mark.parametrize("name", TOPICS)
async def test_consecutive_dead_letters_stop_the_service(
    kafka: KafkaServer, topic_prefix: str, tmp_path: Path, name: str
) -> None:
    """Exit code 1 at the limit; later records are neither dead-lettered nor committed."""
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix)
    store = FolderStore(tmp_path / "store")
    for number in range(RECORDS):
        await store.put(segment_key(f"job-{number}", 1, 0), b"no segment")
    await _publish_failing(settings, TOPICS[name])
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
    committed = await _committed(
        settings, f"{topic_prefix}segue-{name}", topic_prefix + TOPICS[name]
    )

    sys.stdout.write(
        f"{name}: {RECORDS} failing records, limit {LIMIT}: ended with {code},"
        f" dead letters {len(letters)}, committed {committed},"
        f" left on the topic {RECORDS - committed}\n"
    )
    assert code == 1
    assert f"{LIMIT} dead letters in a row" in log
    assert len(letters) == LIMIT
    assert committed < LIMIT
