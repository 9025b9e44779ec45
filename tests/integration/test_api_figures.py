"""The api's figures of what PostgreSQL knows: runs, their length, and the outbox."""

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


class Later(SystemClock):
    """The machine's clock in an hour."""

    @override
    def now(self) -> datetime:
        """The moment, UTC."""
        return super().now() + timedelta(hours=1)


def figure(name: str, labels: Mapping[str, str] = _NONE) -> float:
    """What Prometheus would be told."""
    return REGISTRY.get_sample_value(name, dict(labels)) or 0.0


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield the api on a new database."""
    async with api_fixture(await postgres(), store_folder) as fixture:
        yield fixture


async def test_what_waits_is_counted_and_its_age_told(fixture: ApiFixture) -> None:
    """Records of the outbox, runs by where they stand; done ones are no longer among them."""
    for job in ("one", "two"):
        await fixture.post(job_id=job, scenes=TWO_SCENES)
    meter = GaugeUpdater(database=fixture.context.database, clock=Later())

    await meter.update()

    assert figure("segue_api_outbox_records") == 4
    assert figure("segue_api_outbox_oldest_seconds") == pytest.approx(3600, abs=60)
    assert figure("segue_api_runs", {"status": "submitted"}) == 2
    assert figure("segue_api_run_oldest_seconds") == pytest.approx(3600, abs=60)

    await fixture.rows("DELETE FROM outbox")
    await fixture.rows("UPDATE runs SET status = 'completed'")
    await meter.update()

    assert figure("segue_api_outbox_records") == 0
    assert figure("segue_api_outbox_oldest_seconds") == 0
    assert figure("segue_api_runs", {"status": "submitted"}) == 0
    assert figure("segue_api_run_oldest_seconds") == 0


async def test_the_runs_that_are_not_done_are_found_by_their_index(fixture: ApiFixture) -> None:
    """Its condition and the query's are the same words, or every look reads every run."""
    told = await fixture.rows(
        """
        SELECT pg_get_indexdef(indexrelid) AS made FROM pg_index
        WHERE indexrelid = 'runs_unfinished'::regclass
        """
    )

    assert "status <> ALL (ARRAY['completed'::text, 'failed'::text" in told[0]["made"]
    async with fixture.context.database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            "EXPLAIN SELECT status FROM runs"
            " WHERE status NOT IN ('completed', 'failed', 'cancelled', 'superseded')"
        )
    assert "runs_unfinished" in str(plan)


async def test_without_postgres_nothing_is_known(fixture: ApiFixture) -> None:
    """NaN fires no rule; zero would say that all is well."""
    nowhere = ApiDatabase(DatabaseSettings(url="postgresql://x@127.0.0.1:9/x", timeout_s=0.5))

    await GaugeUpdater(database=nowhere, clock=SystemClock()).update()

    value = figure("segue_api_outbox_oldest_seconds")
    assert value != value  # noqa: PLR0124 - NaN is the one number that is not itself
    await GaugeUpdater(database=fixture.context.database, clock=SystemClock()).update()
    assert figure("segue_api_outbox_oldest_seconds") == 0


async def test_a_run_is_counted_with_its_length_when_it_ends_and_once(fixture: ApiFixture) -> None:
    """Also when its last event is said again."""
    name, failed = "segue_api_job_seconds_count", {"outcome": "failed"}
    before = figure(name, failed)
    await fixture.post(job_id="job-1", scenes=TWO_SCENES)
    await asyncio.sleep(0)

    await fixture.apply(a_failure())
    await fixture.apply(a_failure())

    assert figure(name, failed) == before + 1
