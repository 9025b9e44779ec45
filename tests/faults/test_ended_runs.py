"""A run that is no longer wanted stops spending, whatever it was doing; its neighbours go on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.contract.events import JobCancelled
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WORK_S = 4.0  # long enough to be told in the middle of it
SCENES = 3


@pytest.fixture
async def fixture(kafka: KafkaServer, tmp_path: Path) -> AsyncIterator[FaultFixture]:
    """A room with a generator, whose provider takes its time."""
    async with fault_fixture(kafka, tmp_path, work_s=WORK_S) as made:
        generator = made.service("generator")
        await generator.start()
        try:
            yield made
        finally:
            await generator.kill()


async def _running(fixture: FaultFixture, count: int) -> None:
    """Wait until so many predictions are being worked on."""

    async def look() -> bool | None:
        working = [one for one in fixture.fake.predictions if one["status"] == "processing"]
        return len(working) == count or None

    await eventually(look, within_s=40, what=f"{count} predictions at work")


def _statuses(facts: list[checker.Fact], job_id: str, run: int) -> list[str]:
    """How the calls for a run ended, in the order in which they were made."""
    calls = [fact for fact in facts if fact["kind"] == "call" and fact["job_id"] == job_id]
    return [fact["status"] for fact in calls if fact["run"] == run]


async def test_a_newer_run_stops_the_spending_of_the_older(fixture: FaultFixture) -> None:
    """The prediction that runs is cancelled, the scenes behind it are never asked for."""
    await fixture.request(["again"], scenes=SCENES, run=1, excused="superseded")
    await _running(fixture, 1)
    fixture.fake.tune(work_s=0.2)

    await fixture.request(["again"], scenes=SCENES, run=2)
    await fixture.until_done()

    facts = await fixture.judged()
    assert checker.violations(facts) == []
    assert _statuses(facts, "again", 1) == ["canceled"]
    assert _statuses(facts, "again", 2) == ["succeeded"] * SCENES


async def test_a_cancelled_job_cancels_its_prediction_and_nobody_elses(
    fixture: FaultFixture,
) -> None:
    """It stops within the second; the neighbour in its partition is made to its end."""
    await fixture.request(["enough"], scenes=SCENES, excused="cancelled")
    await fixture.request(["neighbour"], scenes=1)
    await _running(fixture, 2)

    await fixture.publish(JobCancelled(job_id="enough", run=1, reason="enough"))
    await _running(fixture, 1)
    await fixture.until_done()

    facts = await fixture.judged()
    assert checker.violations(facts) == []
    assert _statuses(facts, "enough", 1) == ["canceled"]
    assert _statuses(facts, "neighbour", 1) == ["succeeded"]
