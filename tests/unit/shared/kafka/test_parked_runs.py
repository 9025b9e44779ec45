"""Parking: a parked lane lets a requeue pass in order, and nothing else, until its last record."""

from pathlib import Path

import pytest

from shared.errors import InvalidEventError, JobError
from shared.kafka.codec import Envelope, Record, Unreadable, try_decode
from shared.kafka.parked_runs import REQUEUE_ID, REQUEUE_LAST, ParkedLane, ParkedRuns
from shared.storage.filesystem import FolderStore
from tests.unit.shared.kafka.test_router import RouterFixture, a_record

LANE = ("job-1", 1, "scene.requested")


@pytest.fixture
async def fixture(tmp_path: Path) -> RouterFixture:
    """A line whose run died at its scene 0, scene 1 behind it; a requeue has opened its lane."""
    fixture = RouterFixture(FolderStore(tmp_path))
    await fixture.run(try_decode(a_record(0)), InvalidEventError("wrong"))
    await fixture.run(try_decode(a_record(1)))
    await fixture.router.parked.open_for(*LANE, requeue="5")
    return fixture


def again(index: int, *, last: bool = False, requeue: int = 5) -> Envelope | Unreadable:
    """A record that a requeue put back."""
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


async def test_the_last_record_of_a_requeue_releases_the_lane(fixture: RouterFixture) -> None:
    """Until then it is parked; afterwards it is as if nothing had been."""
    await fixture.run(again(0))
    between = await fixture.router.parked.state(*LANE)
    await fixture.run(again(1, last=True))
    await fixture.run(try_decode(a_record(2)))

    assert between == ParkedLane(open_for="5")
    assert await fixture.router.parked.state(*LANE) is None
    assert (len(fixture.handled), len(fixture.dead)) == (4, 2)


async def test_a_last_record_that_fails_its_job_releases_the_lane_too(
    fixture: RouterFixture,
) -> None:
    """It was worked off: the job says why it failed, and no letter is left behind."""
    await fixture.run(again(0, last=True), JobError("cannot be made"))

    assert await fixture.router.parked.state(*LANE) is None


async def test_what_comes_meanwhile_is_parked_and_holds_the_lane(fixture: RouterFixture) -> None:
    """It belongs behind what is put back, and nobody put it there yet."""
    await fixture.run(again(0))
    await fixture.run(try_decode(a_record(2)))
    held = await fixture.router.parked.state(*LANE)
    await fixture.run(again(1, last=True))
    await fixture.run(try_decode(a_record(3)))

    assert held == ParkedLane(open_for="5", is_held=True)
    assert await fixture.router.parked.state(*LANE) == ParkedLane()
    assert (len(fixture.handled), len(fixture.dead)) == (3, 4)


async def test_a_record_that_fails_again_closes_the_lane_for_those_behind_it(
    fixture: RouterFixture,
) -> None:
    """They are of the same requeue, and must not overtake it."""
    await fixture.run(again(0), InvalidEventError("still wrong"))
    await fixture.run(again(1, last=True))

    assert len(fixture.handled) == 2
    assert await fixture.router.parked.state(*LANE) == ParkedLane()
    assert [one.header(REQUEUE_ID) for one in fixture.dead[2:]] == ["5", "5"]


async def test_records_of_another_requeue_do_not_pass(fixture: RouterFixture) -> None:
    """Nor does a later requeue take over a lane that is open for an earlier one."""
    await fixture.run(again(0, requeue=4, last=True))
    await fixture.router.parked.open_for(*LANE, requeue="6")

    assert len(fixture.handled) == 1
    assert await fixture.router.parked.state(*LANE) == ParkedLane(open_for="5", is_held=True)


async def test_a_lane_that_is_opened_again_is_held_no_longer(fixture: RouterFixture) -> None:
    """The same requeue goes on: it takes along what was parked until now."""
    await fixture.run(try_decode(a_record(2)))
    await fixture.router.parked.open_for(*LANE, requeue="5")

    assert await fixture.router.parked.state(*LANE) == ParkedLane(open_for="5")


async def test_a_free_lane_takes_requeued_records_and_stays_free(fixture: RouterFixture) -> None:
    """Its marker was taken away by hand, or it never had one."""
    parked = ParkedRuns(fixture.store)
    await parked.release(*LANE)
    await parked.open_for(*LANE, requeue="5")
    await fixture.run(again(0))

    assert len(fixture.handled) == 2
    assert await parked.state(*LANE) is None
