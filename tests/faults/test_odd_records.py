"""Records and batches of foreign producers, and a damaged log: no reader stops."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from shared.contract.events import JobFailed, SceneRequested, SegmentGenerated
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Record
from shared.settings import KafkaSettings
from shared.storage.filesystem import FolderStore
from tests.support.event_builders import a_scene
from tests.support.odd_batches import (
    GZIP,
    LZ4,
    SNAPPY,
    ZSTD,
    OddBatch,
    OddRecord,
    PartitionLog,
    publish_batch,
)
from tests.support.operator_commands import segue
from tests.support.pipeline_fixture import OpenPipeline, Pipeline
from tests.support.processes import eventually, records_of
from tests.support.runbook import RunbookOperator, addresses
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
SCENES, SEGMENTS, FAILED = SceneRequested.kind, SegmentGenerated.kind, JobFailed.kind
GARBAGE = 110  # more than any limit of dead letters in a row
BIG = 3_000_000
CODECS = {"plain": 0, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
#: what is damaged in a batch of the log: place, content, whether its checksum is valid again
DAMAGE = {
    "crc": (-1, b"?", False),
    "magic": (16, b"\x09", False),
    "codec": (21, b"\x00\x06", True),
    "lz4": (21, b"\x00\x03", True),
    "lengths": (61, b"\xff" * 12, True),
}
NAME = b"caf\xe9"
#: valid scenes with unusual keys and headers: these are processed
VALID = {
    "null-key": OddRecord(key=None),
    "empty-key": OddRecord(key=b""),
    "binary-key": OddRecord(key=b"\xff\xfe\x00"),
    "large-key": OddRecord(key=b"k" * 600_000),
    "null-header": OddRecord(headers=[(b"x", None), (b"ce_id", None)]),
    "same-header": OddRecord(headers=[(b"ce_id", b"1"), (b"ce_id", b"2"), (b"", b"")]),
    "many-headers": OddRecord(headers=[(b"h%d" % number, b"v") for number in range(5000)]),
}


def scene(job_id: str, text: str = "a calm lake") -> bytes:
    """Return the value of the only scene of a job."""
    fields = a_scene(0, count=1, job_id=job_id, duration_s=1.1, description=text)
    return fields.model_dump_json().encode()


class Upstream:
    """Publishes batches as a foreign producer would, all to the one partition of a topic."""

    def __init__(self, kafka: KafkaServer, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix

    async def publish(self, topic: str, *records: OddRecord, codec: int = 0) -> None:
        """Publish one batch."""
        batch = OddBatch(records=records, codec=codec).encoded()
        await publish_batch(self._kafka.bootstrap, self._prefix + topic, batch)

    async def publish_damaged(self, topic: str, kind: str) -> None:
        """Publish a valid batch of two records and damage it in the broker's log."""
        assert self._kafka.logs is not None, "the broker's log is on this machine"
        token = f"damaged-{kind}".encode()
        await self.publish(topic, OddRecord(value=token), OddRecord(value=token))
        log = PartitionLog(self._kafka.logs / f"{self._prefix}{topic}-0")
        at, content, is_checked = DAMAGE[kind]
        size = len(log.batch_of(token)[1])
        log.overwrite(token, at % size, content, is_checked=is_checked)

    async def publish_transaction(self, value: bytes, *, commits: bool) -> None:
        """Publish one scene in a transaction."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._kafka.bootstrap, transactional_id=f"{self._prefix}upstream"
        )
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(self._prefix + SCENES, value, key=b"a job")
            await (producer.commit_transaction if commits else producer.abort_transaction)()
        finally:
            await producer.stop()


async def publish_scenes(upstream: Upstream) -> list[str]:
    """Publish odd and valid records of every kind; return the jobs that must complete."""
    for name, codec in CODECS.items():
        await upstream.publish(SCENES, OddRecord(value=scene(name)), codec=codec)
    for name, odd in VALID.items():
        record = OddRecord(key=odd.key, headers=odd.headers, value=scene(name))
        await upstream.publish(SCENES, record)
    odd_name = OddRecord(value=scene("odd-name"), headers=[(NAME, b"1")])
    beside = OddRecord(value=scene("beside-odd-name"))
    await upstream.publish(SCENES, beside, odd_name)
    await upstream.publish(SCENES, OddRecord(value=None), OddRecord(key=None, value=b""))
    await upstream.publish(SCENES, OddRecord(value=scene("big", "y" * BIG)), codec=GZIP)
    await upstream.publish(SCENES, *[OddRecord(value=b'{"half')] * GARBAGE)
    await upstream.publish_transaction(scene("aborted"), commits=False)
    await upstream.publish_transaction(scene("committed"), commits=True)
    return [*CODECS, *VALID, "beside-odd-name", "committed"]


async def dead_letters(pipeline: Pipeline, topic: str, count: int) -> list[Record]:
    """Wait for `count` dead letters of a topic; return all of them."""

    async def poll() -> list[Record] | None:
        letters = await records_of(pipeline.kafka.bootstrap, f"{topic}.dlq", prefix=pipeline.prefix)
        return letters if len(letters) >= count else None

    return await eventually(poll, within_s=60, what=f"{count} dead letters of {topic}")


def contents(letters: Sequence[Record]) -> Counter[str]:
    """Return how many letters have bytes that could not be decoded, by kind."""
    return Counter(letter.header("dlq-content") or "record's value" for letter in letters)


async def test_no_record_stops_a_reader(
    kafka: KafkaServer, open_pipeline: OpenPipeline, topic_prefix: str, tmp_path: Path
) -> None:
    """Every valid job completes; everything else is a dead letter with its bytes and offsets.

    The generator reads with Faust, the merger with the lane consumer; the api's projection, its
    rebuild and the commands read the same topics.
    """
    settings = KafkaSettings.from_environment(
        bootstrap_servers=kafka.bootstrap, topic_prefix=topic_prefix, partitions=1
    )
    await ensure_topics(settings)
    upstream = Upstream(kafka, topic_prefix)
    jobs = await publish_scenes(upstream)
    damage = [] if kafka.logs is None else list(DAMAGE)
    for topic in (SCENES, SEGMENTS, FAILED):
        await upstream.publish(topic, OddRecord(value=b"odd", headers=[(NAME, b"1")]), codec=LZ4)
        for kind in damage:
            await upstream.publish_damaged(topic, kind)
    await upstream.publish(SEGMENTS, *[OddRecord(value=b'{"half')] * GARBAGE)
    await upstream.publish(SCENES, OddRecord(value=scene("last")))

    async with open_pipeline(SEGUE_PARTITIONS="1", MUSIC_PROVIDER="silence") as pipeline:
        ended = {job: await pipeline.ended(job) for job in [*jobs, "last"]}
        broken = len(damage)
        # of the scenes: names, tombstones, the big one, garbage; then the damage
        letters = await dead_letters(pipeline, SCENES, 2 + 2 + 1 + GARBAGE + broken)
        merged = await dead_letters(pipeline, SEGMENTS, 1 + GARBAGE + broken)
        failed = await dead_letters(pipeline, FAILED, 1 + broken)
        starts = {
            name: service.count_logged("service.starting")
            for name, service in pipeline.services.items()
        }
        environment = addresses(pipeline)

        async def no_lag() -> tuple[int, Any] | None:
            code, found = await segue(environment, "lag")
            return None if any(row["records"] for row in found["lag"]) else (code, found)

        lag = await eventually(no_lag, within_s=20, what="a lag of 0 everywhere")
        rebuilt = await segue(environment, "rebuild")
        requeued = await segue(
            environment, "dlq", "requeue", SCENES, "--job", "odd-name", "--apply", "--reason", "r"
        )
        by_name = await pipeline.ended("odd-name")
        await check_big(environment, letters, FolderStore(tmp_path / "store"))
        if damage:
            await check_runbook(pipeline, letters)
        aborted = await pipeline.status("aborted")

    sys.stdout.write(
        f"odd records: {len(ended)} of {len(jobs) + 1} valid jobs completed; dead letters"
        f" {len(letters)} + {len(merged)} + {len(failed)}: {dict(contents(letters))}\n"
    )
    assert {status["audio_status"]["status"] for status in ended.values()} == {"completed"}
    assert set(starts.values()) == {1}, "no service was started again"
    assert aborted is None, "scenes of an aborted transaction are not read"
    assert len(letters) == 2 + 2 + 1 + GARBAGE + broken
    assert (len(merged), len(failed)) == (1 + GARBAGE + broken, 1 + broken)
    assert (rebuilt[0], rebuilt[1].get("identical")) == (0, True)
    assert (lag[0], [row["records"] for row in lag[1]["lag"]]) == (0, [0] * len(lag[1]["lag"]))
    assert requeued[0] == 0, requeued
    assert by_name["audio_status"]["status"] == "completed"
    for of_topic in (letters, merged, failed):
        check_damage(of_topic, damage)


def check_damage(letters: Sequence[Record], damage: Sequence[str]) -> None:
    """Check that each damaged batch is a dead letter with its bytes and both offsets."""
    for kind in damage:
        [letter] = [
            letter for letter in letters if f"damaged-{kind}".encode() in (letter.value or b"")
        ]
        first, last = (letter.header(f"dlq-origin-{part}") for part in ("offset", "last-offset"))
        assert first is not None
        assert last is not None
        assert int(last) - int(first) == 1
    names = [letter for letter in letters if "UTF-8" in (letter.header("dlq-reason") or "")]
    assert all(letter.header("caf\\xe9") == "1" for letter in names)
    assert len(names) >= 1


async def check_big(
    environment: dict[str, str], letters: Sequence[Record], store: FolderStore
) -> None:
    """Check that a record above the broker's limit is stored whole, shown and requeued."""
    [letter] = [letter for letter in letters if letter.header("dlq-original-object")]
    original = json.loads(await store.get(letter.header("dlq-original-object") or ""))
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    shown = await segue(environment, "dlq", "show", place)
    again = await segue(
        environment, "dlq", "requeue", "--place", place, "--apply", "--reason", "whole again"
    )
    assert len(letter.value or b"") < 2_000_000
    assert int(letter.header("dlq-truncated-from") or 0) > BIG
    assert set(original) == {"key", "value", "headers"}
    assert shown[1]["value"] == scene("big", "y" * BIG).decode()
    assert again[0] == 0, again


async def check_runbook(pipeline: Pipeline, letters: Sequence[Record]) -> None:
    """Run the section of the runbook on the batch with the wrong checksum."""
    [letter] = [letter for letter in letters if b"damaged-crc" in (letter.value or b"")]
    place = f"{letter.topic}/{letter.partition}/{letter.offset}"
    runbook = RunbookOperator("records-that-cannot-be-decoded", addresses(pipeline), PLACE=place)
    await runbook.run_remaining()
    runbook.assert_complete()
