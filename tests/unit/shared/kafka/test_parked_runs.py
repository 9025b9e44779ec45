"""A requeue passes through a parked lane in order; its last record releases the lane."""

from pathlib import Path

import pytest

from shared.errors import InvalidEventError, JobError
from shared.kafka.codec import Envelope, Record, Unreadable, try_decode
from shared.kafka.parked_runs import REQUEUE_ID, REQUEUE_LAST, ParkedLane, ParkedRuns
from shared.storage.filesystem import FolderStore
from tests.support.router_harness import RouterHarness, a_record

LANE = ("job-1", 1, "scene.requested")


@pytest.fixture
async def harness(tmp_path: Path) -> RouterHarness:
    """Return a router; scene 0 is a dead letter, scene 1 parked, the lane open for requeue 5."""
    harness = RouterHarness(FolderStore(tmp_path))
    await harness.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await harness.run(try_decode(a_record(1)))
    await harness.router.parked.open_for(*LANE, requeue="5")
    return harness


def requeued(index: int, *, last: bool = False, requeue: int = 5) -> Envelope | Unreadable:
    """Return a record as a requeue publishes it."""
    record = a_record(index)
    marks = ((REQUEUE_ID, str(requeue).encode()), *(((REQUEUE_LAST, b"true"),) if last else ()))
    return try_decode(
        Record(
            topic=record.topic,
            partition=record.partition,
            offset=10 + index,
            key=record.key,
            value=record.value,
            headers=record.headers + marks,
        )
    )


async def test_the_last_record_of_a_requeue_releases_the_lane(harness: RouterHarness) -> None:
    """It stays parked until then; later records are processed normally."""
    await harness.run(requeued(0))
    between = await harness.router.parked.state(*LANE)
    await harness.run(requeued(1, last=True))
    await harness.run(try_decode(a_record(2)))

    assert between == ParkedLane(open_for="5")
    assert await harness.router.parked.state(*LANE) is None
    assert (len(harness.handled), len(harness.dead_letters)) == (4, 2)


async def test_a_last_record_that_fails_its_job_releases_the_lane_too(
    harness: RouterHarness,
) -> None:
    """The record was processed: job.failed gives the reason, and there is no dead letter."""
    await harness.run(requeued(0, last=True), JobError("cannot be made"))

    assert await harness.router.parked.state(*LANE) is None


async def test_a_record_that_arrives_during_a_requeue_is_parked_and_holds_the_lane(
    harness: RouterHarness,
) -> None:
    """It must follow the requeued records, and needs a requeue of its own."""
    await harness.run(requeued(0))
    await harness.run(try_decode(a_record(2)))
    held = await harness.router.parked.state(*LANE)
    await harness.run(requeued(1, last=True))
    await harness.run(try_decode(a_record(3)))

    assert held == ParkedLane(open_for="5", is_held=True)
    assert await harness.router.parked.state(*LANE) == ParkedLane()
    assert (len(harness.handled), len(harness.dead_letters)) == (3, 4)


async def test_a_requeued_record_that_fails_again_parks_the_rest_of_the_requeue(
    harness: RouterHarness,
) -> None:
    """Records of the same requeue must not overtake it."""
    await harness.run(requeued(0), InvalidEventError("still wrong"))
    await harness.run(requeued(1, last=True))

    assert len(harness.handled) == 2
    assert await harness.router.parked.state(*LANE) == ParkedLane()
    assert [letter.header(REQUEUE_ID) for letter in harness.dead_letters[2:]] == ["5", "5"]


async def test_records_of_another_requeue_are_parked(harness: RouterHarness) -> None:
    """A later requeue does not take over a lane that is open for an earlier one."""
    await harness.run(requeued(0, requeue=4, last=True))
    await harness.router.parked.open_for(*LANE, requeue="6")

    assert len(harness.handled) == 1
    assert await harness.router.parked.state(*LANE) == ParkedLane(open_for="5", is_held=True)


async def test_opening_a_lane_again_for_the_same_requeue_clears_the_hold(
    harness: RouterHarness,
) -> None:
    """The requeue resumes and includes what was parked until now."""
    await harness.run(try_decode(a_record(2)))
    await harness.router.parked.open_for(*LANE, requeue="5")

    assert await harness.router.parked.state(*LANE) == ParkedLane(open_for="5")


async def test_a_free_lane_processes_requeued_records_and_stays_free(
    harness: RouterHarness,
) -> None:
    """Its marker was removed by hand, or it never had one."""
    parked = ParkedRuns(harness.store)
    await parked.release(*LANE)
    await parked.open_for(*LANE, requeue="5")
    await harness.run(requeued(0))

    assert len(harness.handled) == 2
    assert await parked.state(*LANE) is None
