"""A log that was created again is detected once; the unfinished runs are requested then."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError

from services.api.database import Connection, offsets
from services.api.projection.consumer import ProjectionConsumer
from services.api.runs.resume import resume
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.servers import Database

pytestmark = [pytest.mark.integration, pytest.mark.timeout(60)]

PARTITION = TopicPartition("scene.requested", 0)
OTHER = TopicPartition("scene.requested", 1)


class RebalancedConsumer:
    """A Kafka consumer of an empty log; while it is asked for end offsets, it loses partitions.

    After its second poll it sets `stop`.
    """

    def __init__(self, *, left: set[TopicPartition], stop: asyncio.Event) -> None:
        self._owned: set[TopicPartition] = set()
        self._left = left
        self._stop = stop
        self._listener: ConsumerRebalanceListener | None = None
        self.positions: dict[TopicPartition, int] = {}
        self.resumed: set[TopicPartition] = set()

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """End the projection, too: it would start the consumer again."""
        self._stop.set()

    def subscribe(self, _topics: Sequence[str], *, listener: ConsumerRebalanceListener) -> None:
        """Keep the listener for the first poll."""
        self._listener = listener

    async def getmany(self, **_: int) -> Mapping[TopicPartition, list[object]]:
        """Assign both partitions at the first call; end at the second."""
        if self._listener is None:
            self._stop.set()
        else:
            listener, self._listener = self._listener, None
            self._owned = {PARTITION, OTHER}
            await listener.on_partitions_assigned(sorted(self._owned))
        return {}

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the assigned partitions."""
        return frozenset(self._owned)

    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Return 0 for each partition, and lose all but `left`."""
        self._owned = self._left
        return dict.fromkeys(partitions, 0)

    def pause(self, *partitions: TopicPartition) -> None:
        """Raise for a partition that is not assigned."""
        self._check(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Record the position; raise for a partition that is not assigned."""
        self._check([partition])
        self.positions[partition] = offset

    def resume(self, *partitions: TopicPartition) -> None:
        """Record the partitions; raise for one that is not assigned."""
        self._check(partitions)
        self.resumed |= set(partitions)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Raise for a partition that is not assigned."""
        self._check(list(offsets))

    def highwater(self, _partition: TopicPartition) -> int:
        """Return 0: the log is empty."""
        return 0

    def _check(self, partitions: Sequence[TopicPartition]) -> None:
        if not set(partitions) <= self._owned:
            raise IllegalStateError(f"No current assignment for some of {partitions}")


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The api's HTTP application on a new database, with offset 2 stored for one partition."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        async with fixture.context.database.transaction() as connection:
            await offsets.stored(connection, "1", [tuple(PARTITION)])
            await offsets.advance(connection, "1", tuple(PARTITION), start=0, end=2)
        yield fixture


async def _project(
    fixture: ApiFixture,
    left: set[TopicPartition],
    on_new_log: Callable[[Connection], Awaitable[None]],
) -> RebalancedConsumer:
    """Run the projection on a `RebalancedConsumer` until it stops; return the consumer."""
    stop = asyncio.Event()
    consumer = RebalancedConsumer(left=left, stop=stop)
    settings = fixture.context.settings
    kafka = settings.kafka.model_copy(update={"create_topics": False})
    projection = ProjectionConsumer(
        database=fixture.context.database,
        applier=fixture.applier,
        settings=settings.model_copy(update={"kafka": kafka}),
        on_new_log=on_new_log,
        log=fixture.context.log,
        build=lambda _: consumer,
    )
    await projection.run(stop)
    return consumer


@pytest.mark.parametrize("left", [{PARTITION, OTHER}, {PARTITION}, set()], ids=["all", "one", "no"])
async def test_the_api_requests_unfinished_runs_again_during_a_rebalance(
    fixture: ApiFixture, left: set[TopicPartition]
) -> None:
    """The offset is reset and the requests are added to the outbox in one transaction."""
    await fixture.post(job_id="open", scenes=TWO_SCENES)
    await fixture.rows("DELETE FROM outbox")  # published to the log that was deleted

    async def on_new_log(connection: Connection) -> None:
        await resume(connection, clock=fixture.context.clock, log=fixture.context.log)

    consumer = await _project(fixture, left, on_new_log)

    stored = await fixture.rows("SELECT next_offset FROM projection_offsets WHERE partition = 0")
    outbox = await fixture.rows("SELECT key FROM outbox")
    assert stored == [{"next_offset": 0}]
    assert outbox == [{"key": b"open"}] * 2
    assert consumer.positions == dict.fromkeys(left, 0)
    assert consumer.resumed == left


async def test_the_api_keeps_the_offset_if_the_requests_fail(fixture: ApiFixture) -> None:
    """After a crash or a PostgreSQL error the next check detects the new log again."""

    async def fails(_connection: Connection) -> None:
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        await _project(fixture, {PARTITION, OTHER}, fails)

    stored = await fixture.rows("SELECT next_offset FROM projection_offsets WHERE partition = 0")
    assert stored == [{"next_offset": 2}]
