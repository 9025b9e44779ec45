"""Errors that the broker reports instead of records do not stop a partition."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import consumer as consumer_module
from aiokafka.protocol.fetch import FetchRequest
from prometheus_client import REGISTRY

from shared.kafka.client import group_options
from shared.kafka.fetch import fetcher
from shared.kafka.fetch.fetcher import IsolatingFetcher, _FetchClient, read_to
from shared.kafka.fetch.record_batches import UnreadableLog
from shared.settings import KafkaSettings

TOPIC = "scene.requested"
OK, OUT_OF_RANGE, CORRUPT = 0, 1, 2


@dataclass
class Broker:
    """Answers fetches of one partition with the next of `codes`."""

    codes: list[int]
    _client_id: str = "segue-merger"
    requests: list[object] = field(default_factory=list)

    async def send(self, _node_id: int, request: object, **_: object) -> Any:
        """Return a response in the form of version 11."""
        self.requests.append(request)
        entry = (0, self.codes.pop(0), 7, 7, 0, None, -1, b"")
        return type("Response", (), {"topics": [(TOPIC, [entry])], "API_VERSION": 11})()


def fetch(offset: int) -> FetchRequest:
    """Return a fetch request for one partition."""
    return FetchRequest(20, 1, 1000, 1, [(TOPIC, [(0, offset, 1000)])])


async def answer(client: _FetchClient, offset: int) -> tuple[int, int, bytes]:
    """Return error code, end offset and bytes of the answer to a fetch."""
    response = await client.send(0, fetch(offset))
    [(_, [entry])] = response.topics
    return entry[1], entry[2], entry[-1]


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer errors without delay."""
    monkeypatch.setattr(fetcher, "_BACKOFF_S", 0.0)


async def test_an_offset_that_the_broker_cannot_read_is_passed_over_after_a_while(
    no_waits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica may take over before; the offsets behind it do not wait again."""
    client = _FetchClient(Broker([CORRUPT] * 4 + [OK]), reports_resets=True)
    waited = await answer(client, 3)
    assert waited == (CORRUPT, 7, b"")

    monkeypatch.setattr(fetcher, "UNREADABLE_S", 0.0)
    code, _, log = await answer(client, 3)
    assert code == OK
    assert isinstance(log, UnreadableLog)
    assert "error 2" in log.reason

    monkeypatch.setattr(fetcher, "UNREADABLE_S", 0.01)
    await asyncio.sleep(0.02)
    assert isinstance((await answer(client, 4))[-1], UnreadableLog)
    assert (await answer(client, 6))[0] == CORRUPT, "another place waits again"
    assert (await answer(client, 6))[0] == OK


@pytest.mark.parametrize(
    ("offset", "reports", "count"), [(5, True, 1), (0, True, 0), (5, False, 0)]
)
async def test_an_offset_that_is_not_in_the_log_is_counted(
    no_waits: None, offset: int, *, reports: bool, count: int
) -> None:
    """Offset 0 was never read; the commands report their own error."""
    labels = {"service": "merger", "topic": TOPIC}
    before = REGISTRY.get_sample_value("segue_offset_resets_total", labels) or 0
    await answer(_FetchClient(Broker([OUT_OF_RANGE]), reports_resets=reports), offset)

    after = REGISTRY.get_sample_value("segue_offset_resets_total", labels) or 0
    assert after - before == count


async def test_every_consumer_isolates_and_reads_committed_records() -> None:
    """The options of a client install it; aiokafka builds its fetcher by this name."""
    options = group_options(KafkaSettings(), "segue-test", max_poll_interval_ms=1000)
    consumer = AIOKafkaConsumer(**options)

    assert consumer_module.Fetcher is IsolatingFetcher
    assert options["isolation_level"] == "read_committed"
    assert consumer._isolation_level == "read_committed"
    assert read_to(consumer, TopicPartition(TOPIC, 0)) is None
    await consumer.stop()
