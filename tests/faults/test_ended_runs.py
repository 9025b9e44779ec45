"""Superseded and cancelled runs stop paying; other jobs continue."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.contract.events import JobCancelled
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WORK_S = 4.0  # long enough for an event during a prediction
SCENES = 3


@pytest.fixture
async def fixture(kafka: KafkaServer, tmp_path: Path) -> AsyncIterator[FaultFixture]:
    """A fixture with a generator and a slow emulator."""
    async with fault_fixture(kafka, tmp_path, work_s=WORK_S) as fixture:
        generator = fixture.service("generator")
        await generator.start()
        try:
            yield fixture
        finally:
            await generator.kill()


async def _until_processing(fixture: FaultFixture, count: int) -> None:
    """Wait until the emulator processes `count` predictions."""

    async def poll() -> bool | None:
        working = [p for p in fixture.fake.predictions if p["status"] == "processing"]
        return len(working) == count or None

    await eventually(poll, within_s=40, what=f"{count} predictions at work")


def _statuses(facts: list[checker.Fact], job_id: str, run: int) -> list[str]:
    """Return the final statuses of a run's predictions, in order."""
    calls = [fact for fact in facts if fact["kind"] == "call" and fact["job_id"] == job_id]
    return [fact["status"] for fact in calls if fact["run"] == run]


async def test_a_newer_run_cancels_the_prediction_of_the_older(fixture: FaultFixture) -> None:
    """The running prediction is cancelled, later scenes are not requested."""
    await fixture.request(["again"], scenes=SCENES, run=1, excused="superseded")
    await _until_processing(fixture, 1)
    fixture.fake.tune(work_s=0.2)

    await fixture.request(["again"], scenes=SCENES, run=2)
    await fixture.until_done()

    facts = await fixture.collect_facts()
    assert checker.violations(facts) == []
    assert _statuses(facts, "again", 1) == ["canceled"]
    assert _statuses(facts, "again", 2) == ["succeeded"] * SCENES


async def test_a_cancelled_job_cancels_only_its_own_prediction(
    fixture: FaultFixture,
) -> None:
    """The other job in the partition completes."""
    await fixture.request(["enough"], scenes=SCENES, excused="cancelled")
    await fixture.request(["neighbour"], scenes=1)
    await _until_processing(fixture, 2)

    await fixture.publish(JobCancelled(job_id="enough", run=1, reason="enough"))
    await _until_processing(fixture, 1)
    await fixture.until_done()

    facts = await fixture.collect_facts()
    assert checker.violations(facts) == []
    assert _statuses(facts, "enough", 1) == ["canceled"]
    assert _statuses(facts, "neighbour", 1) == ["succeeded"]
