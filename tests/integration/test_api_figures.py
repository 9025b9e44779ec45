"""Metrics that the api reads from PostgreSQL: outbox, runs and their duration."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from typing_extensions import override

from services.api.background.gauges import GaugeUpdater
from services.api.database import Database as ApiDatabase
from services.api.settings import DatabaseSettings
from shared.clock import SystemClock
from tests.support.api_fixture import TWO_SCENES, ApiFixture, api_fixture
from tests.support.run_builders import a_failure
from tests.support.servers import Database

pytestmark = pytest.mark.integration
_NONE: Mapping[str, str] = {}


class LaterClock(SystemClock):
    """A clock that is one hour ahead."""

    @override
    def now(self) -> datetime:
        """Return the time in one hour, UTC."""
        return super().now() + timedelta(hours=1)


def sample(name: str, labels: Mapping[str, str] = _NONE) -> float:
    """Return the value of a metric; 0 if it has none."""
    return REGISTRY.get_sample_value(name, dict(labels)) or 0.0


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_waiting_records_and_runs_are_counted_with_their_age(fixture: ApiFixture) -> None:
    """Outbox records and runs by status; finished ones are no longer counted."""
    for job in ("one", "two"):
        await fixture.post(job_id=job, scenes=TWO_SCENES)
    meter = GaugeUpdater(database=fixture.context.database, clock=LaterClock())

    await meter.update()

    assert sample("segue_api_outbox_records") == 4
    assert sample("segue_api_outbox_oldest_seconds") == pytest.approx(3600, abs=60)
    assert sample("segue_api_runs", {"status": "submitted"}) == 2
    assert sample("segue_api_run_oldest_seconds") == pytest.approx(3600, abs=60)

    await fixture.rows("DELETE FROM outbox")
    await fixture.rows("UPDATE runs SET status = 'completed'")
    await meter.update()

    assert sample("segue_api_outbox_records") == 0
    assert sample("segue_api_outbox_oldest_seconds") == 0
    assert sample("segue_api_runs", {"status": "submitted"}) == 0
    assert sample("segue_api_run_oldest_seconds") == 0


async def test_unfinished_runs_are_read_from_their_index(fixture: ApiFixture) -> None:
    """Index and query have the same condition; otherwise every update would scan all runs."""
    indexes = await fixture.rows(
        """
        SELECT pg_get_indexdef(indexrelid) AS definition FROM pg_index
        WHERE indexrelid = 'runs_unfinished'::regclass
        """
    )

    assert "status <> ALL (ARRAY['completed'::text, 'failed'::text" in indexes[0]["definition"]
    async with fixture.context.database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT status FROM runs"
            " WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded')"
        )
    assert "runs_unfinished" in str(plan)


async def test_without_postgresql_the_metrics_are_nan(fixture: ApiFixture) -> None:
    """NaN fires no alert; zero would mean that nothing waits."""
    nowhere = ApiDatabase(DatabaseSettings(url="postgresql://x@127.0.0.1:9/x", timeout_s=0.5))

    await GaugeUpdater(database=nowhere, clock=SystemClock()).update()

    value = sample("segue_api_outbox_oldest_seconds")
    assert value != value  # noqa: PLR0124 - NaN is the one number that is not itself
    await GaugeUpdater(database=fixture.context.database, clock=SystemClock()).update()
    assert sample("segue_api_outbox_oldest_seconds") == 0


async def test_a_run_is_counted_once_when_it_ends(fixture: ApiFixture) -> None:
    """Also if its last event is published again."""
    name, failed = "segue_api_job_seconds_count", {"outcome": "failed"}
    before = sample(name, failed)
    await fixture.post(job_id="job-1", scenes=TWO_SCENES)
    await asyncio.sleep(0)

    await fixture.apply(a_failure())
    await fixture.apply(a_failure())

    assert sample(name, failed) == before + 1
