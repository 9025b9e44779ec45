"""The outbox relay on a real broker: every record once, each job in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.api.background.outbox_relay import OutboxRelay
from services.api.database import Database as ApiDatabase
from services.api.database import outbox
from services.api.database.migrate import migrate
from shared.clock import SystemClock
from shared.telemetry.log import logger_of
from tests.support.api_fixture import api_settings
from tests.support.api_service import ApiServiceFixture
from tests.support.event_builders import a_scene
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
LOG = logger_of("api")


@pytest.fixture
async def fixture(
    postgres: Database, kafka: KafkaServer, topic_prefix: str, store_folder: Path
) -> ApiServiceFixture:
    """Return a fixture with a new database, new topics and a new store."""
    return ApiServiceFixture(await postgres(), kafka, topic_prefix, store_folder)


@asynccontextmanager
async def a_database(url: str) -> AsyncIterator[ApiDatabase]:
    """Yield the api's access to a migrated database."""
    database = ApiDatabase(api_settings(url, Path("unused")).database)
    await database.open()
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


async def test_two_relays_publish_every_record_once_in_the_order_of_each_job(
    fixture: ApiServiceFixture,
) -> None:
    """Meanwhile eight writers add runs of four jobs."""
    stop = asyncio.Event()
    async with a_database(fixture.url) as database, a_database(fixture.url) as second:
        relays = [
            asyncio.create_task(
                OutboxRelay(access, fixture.broker(), clock=SystemClock(), log=LOG).run(stop)
            )
            for access in (database, second)
        ]

        async def write(job: int, first: int) -> None:
            for number in range(first, first + 10):
                async with database.transaction() as connection:
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", job)
                    written.setdefault(job, []).append(number)
                    event = a_scene(number, count=20, job_id=f"j{job}")
                    await outbox.add_events(connection, [event], now=SystemClock().now())

        written: dict[int, list[int]] = {}
        await asyncio.gather(*(write(job, first) for job in range(4) for first in (0, 10)))

        async def empty() -> bool | None:
            return (await fixture.rows("SELECT id FROM outbox") == []) or None

        await eventually(empty, within_s=40, what="everything is published")
        stop.set()
        await asyncio.gather(*relays)
    records = await fixture.published()

    assert len(records) == 80
    for job, order in written.items():
        scenes = [record["scene_index"] for record in records if record["job_id"] == f"j{job}"]
        assert scenes == order
