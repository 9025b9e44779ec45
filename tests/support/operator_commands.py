"""Run the `segue` command as an operator does, on the servers of this run.

No service runs: the test writes the rows through the api's HTTP application and publishes the
records itself.

I/O: processes, Kafka, PostgreSQL.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.clock import SystemClock
from shared.contract.events import Event
from shared.kafka.admin import ensure_topics
from shared.kafka.codec import Record, encode
from shared.kafka.producer import Publisher
from shared.pricing import PricingSettings
from shared.settings import KafkaSettings
from tests.support.api_fixture import ApiFixture, api_fixture
from tests.support.fork_server import ForkedProcess, start_forked
from tests.support.processes import records_of
from tests.support.servers import Database

ENDS_S = 90.0


@dataclass(kw_only=True)
class OperatorFixture:
    """A migrated database, empty topics, and the environment with their addresses."""

    api: ApiFixture
    kafka: KafkaSettings
    environment: Mapping[str, str]

    async def start(self, *words: str) -> ForkedProcess:
        """Start the command with `--json`."""
        return await started(self.environment, *words)

    async def start_plain(self, *words: str) -> ForkedProcess:
        """Start the command with text output."""
        return await started(self.environment, *words, as_json=False)

    async def segue(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Run the command with `--json`; return the exit code and the document."""
        return await segue(self.environment, *words)

    async def publish(self, events: Iterable[Event], *, partition: int | None = None) -> None:
        """Publish events, in this order."""
        publisher = Publisher(self.kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            for event in events:
                record = encode(event, source="test", now=SystemClock().now())
                await publisher.send(
                    topic=record.topic,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                    partition=partition,
                )
        finally:
            await publisher.stop()

    async def publish_all(self, events: Iterable[Event]) -> None:
        """Publish many events in batches, each job in one partition."""
        publisher = Publisher(self.kafka, source="test", clock=SystemClock())
        await publisher.start()
        try:
            batch = [self._record(event) for event in events]
            for at in range(0, len(batch), 1000):
                await publisher.send_all(batch[at : at + 1000])
        finally:
            await publisher.stop()

    def _record(self, event: Event) -> Record:
        encoded = encode(event, source="test", now=SystemClock().now())
        partition = sum(encoded.key) % self.kafka.partitions
        return Record(
            topic=encoded.topic,
            partition=partition,
            offset=0,
            key=encoded.key,
            value=encoded.value,
            headers=encoded.headers,
        )

    async def log(self, *topics: str) -> list[Record]:
        """Return every record of these topics."""
        return await records_of(
            self.kafka.bootstrap_servers, *topics, prefix=self.kafka.topic_prefix
        )


@asynccontextmanager
async def operator_fixture(
    bootstrap: str, postgres: Database, prefix: str, folder: Path
) -> AsyncIterator[OperatorFixture]:
    """Create the topics and open a migrated database, without services."""
    kafka = KafkaSettings.from_environment(bootstrap_servers=bootstrap, topic_prefix=prefix)
    await ensure_topics(kafka)
    pricing = PricingSettings(wanted="replicate")
    async with api_fixture(await postgres(), folder, pricing=pricing) as api:
        environment = {
            "DATABASE_URL": api.url,
            "SEGUE_STORE_DIR": str(folder),
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
            "SEGUE_TOPIC_PREFIX": prefix,
            "SEGUE_OPERATOR": "an-operator",
            "MUSIC_PROVIDER": "synth",  # commands quote the prices of the stack, not these
            "REPLICATE_API_KEY": "r8_nothing",
        }
        yield OperatorFixture(api=api, kafka=kafka, environment=environment)


async def started(
    environment: Mapping[str, str], *words: str, as_json: bool = True
) -> ForkedProcess:
    """Start `segue`, with `--json` unless `as_json` is False."""
    options = ["--json"] if as_json else []
    environment = {**os.environ, **environment}  # noqa: TID251 - the child's
    return await start_forked("ops", *words, *options, environment=environment)


async def segue(environment: Mapping[str, str], *words: str) -> tuple[int, dict[str, Any]]:
    """Run `segue` with `--json`; return the exit code and the document."""
    process = await started(environment, *words)
    async with asyncio.timeout(ENDS_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output)
