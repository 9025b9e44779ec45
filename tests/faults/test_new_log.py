"""A log that began anew is noticed once: what is unfinished is asked for then, or never."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from services.api.database import Connection, offsets
from services.api.projection.consumer import ProjectionConsumer
from services.api.runs.resume import resume
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.servers import Database

pytestmark = pytest.mark.integration

PLACE = TopicPartition("scene.requested", 0)
OTHER = TopicPartition("scene.requested", 1)


class Regrouped:
    """A consumer whose group regroups while it is asked where the log ends."""

    def __init__(self, *, left: set[TopicPartition]) -> None:
        self._mine, self._left = {PLACE, OTHER}, left
        self.sought: dict[TopicPartition, int] = {}

    def assignment(self) -> frozenset[TopicPartition]:
        """What it has."""
        return frozenset(self._mine)

    async def end_offsets(self, places: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The log is empty; and now some of it is somebody else's."""
        self._mine = self._left
        return dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        """As aiokafka does it."""
        if place not in self._mine:
            raise IllegalStateError(f"No current assignment for partition {place}")
        self.sought[place] = offset

    def resume(self, *places: TopicPartition) -> None:
        """As aiokafka does it."""
        if not set(places) <= self._mine:
            raise IllegalStateError(f"No current assignment for some of {places}")


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """The edge on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


@pytest.mark.parametrize("left", [{PLACE, OTHER}, {PLACE}, set()], ids=["all", "one", "none"])
async def test_unfinished_runs_are_asked_for_again_though_the_group_regroups_meanwhile(
    fixture: ApiFixture, left: set[TopicPartition]
) -> None:
    """The offset is set back and the requests are in the outbox, in one transaction."""
    await fixture.post(job_id="open", scenes=TWO_SCENES)
    await fixture.rows("DELETE FROM outbox")  # published, on a log that is gone
    async with fixture.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [tuple(PLACE)])
        await offsets.advance(connection, "1", tuple(PLACE), start=0, end=2)

    async def log_is_new(connection: Connection) -> None:
        await resume(connection, clock=fixture.edge.clock, log=fixture.edge.log)

    projector = ProjectionConsumer(
        database=fixture.edge.database,
        applier=fixture.applier,
        settings=fixture.edge.settings,
        log_is_new=log_is_new,
        log=fixture.edge.log,
    )
    consumer = Regrouped(left=left)
    projector._consumer = consumer
    projector._unsought = {PLACE, OTHER}
    await projector._seek()

    stood = await fixture.rows("SELECT next_offset FROM projection_offsets WHERE partition = 0")
    waiting = await fixture.rows("SELECT key FROM outbox")
    assert stood == [{"next_offset": 0}]
    assert waiting == [{"key": b"open"}] * 2
    assert consumer.sought == dict.fromkeys(left, 0)


async def test_a_reset_that_cannot_be_followed_by_the_requests_is_none(fixture: ApiFixture) -> None:
    """It dies in between, or PostgreSQL goes away: the next look finds the log new again."""
    async with fixture.edge.database.transaction() as connection:
        await offsets.stored(connection, "1", [tuple(PLACE)])
        await offsets.advance(connection, "1", tuple(PLACE), start=0, end=2)

    async def dies(_connection: Connection) -> None:
        raise RuntimeError("as if killed")

    projector = ProjectionConsumer(
        database=fixture.edge.database,
        applier=fixture.applier,
        settings=fixture.edge.settings,
        log_is_new=dies,
        log=fixture.edge.log,
    )
    projector._consumer = Regrouped(left={PLACE, OTHER})
    projector._unsought = {PLACE, OTHER}
    with pytest.raises(RuntimeError):
        await projector._seek()

    stood = await fixture.rows("SELECT next_offset FROM projection_offsets WHERE partition = 0")
    assert stood == [{"next_offset": 2}]
