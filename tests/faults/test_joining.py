"""A generator joins or leaves every few seconds, under scenes of that length; nobody pays twice.

The stall is what it costs in time: how long a job waited between the end of one prediction and
the request for its next. The provider's own timestamps say it. The short version is held to the
bound of a death even where nobody dies: the machine has its own share in a stall, and CI's has
other tests to run.
"""

import asyncio
import sys
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from shared.contract.ids import scene_seed
from tests.faults.harness import checker
from tests.faults.harness.durations import long_or
from tests.faults.harness.fault_fixture import SESSION_S, FaultFixture, fault_fixture, report
from tests.faults.harness.forked_services import Forked
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

MOVES = long_or(long=12, short=5)
EVERY_S = long_or(long=10.0, short=4.0)
WORK_S = long_or(long=10.0, short=3.0)
JOBS = [f"job-{number}" for number in range(4)]
LEFT_S = 5.0  # the longest stall after a clean leave
KILLED_S = SESSION_S + 5.0  # and after a death, which the group has to notice
STALL_S_MAX = {"stopped": long_or(long=LEFT_S, short=KILLED_S), "killed": KILLED_S}
#: so many that there is work to the last move
SCENES = int(MOVES * EVERY_S / WORK_S) + 5
DONE_S = SCENES * (WORK_S + 10)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(long_or(long=900, short=240))]


async def _moved(fixture: FaultFixture, guest: Forked, *, leaves: str) -> None:
    """One generator comes and goes in turn, under work; it leaves as it should, or is killed."""
    for move in range(MOVES):
        await asyncio.sleep(EVERY_S)
        asked = len(fixture.fake.predictions)
        assert asked < len(JOBS) * SCENES, f"there was no work left at move {move}"
        if move % 2 == 0:
            await guest.start()
        elif leaves == "stopped":
            assert await guest.stop() == 0, str(guest.log)
        else:
            await guest.kill()


def _stalls_s(fixture: FaultFixture) -> list[float]:
    """Between the end of each scene at the provider and the request for the next of its job."""
    calls = {call["input"]["seed"]: call for call in fixture.fake.predictions}
    found = []
    for job in JOBS:
        scenes = [calls[scene_seed(job, 1, index, 1)] for index in range(SCENES)]
        found += [
            (_moment(later["created_at"]) - _moment(earlier["completed_at"])).total_seconds()
            for earlier, later in pairwise(scenes)
        ]
    return found


def _moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


def _told(stalls_s: Sequence[float]) -> str:
    middle = sorted(stalls_s)[len(stalls_s) // 2]
    return f"stall: longest {max(stalls_s):.2f} s, median {middle:.2f} s of {len(stalls_s)}"


@pytest.mark.parametrize("leaves", long_or(long=["stopped", "killed"], short=["stopped"]))
async def test_generators_that_come_and_go_charge_nothing_twice(
    kafka: KafkaServer, tmp_path: Path, leaves: str
) -> None:
    """Joins and leaves in the middle of scenes: charged = scenes, and all in order."""
    async with fault_fixture(kafka, tmp_path, work_s=WORK_S, partitions=4) as fixture:
        stays, guest = fixture.service("generator"), fixture.service("generator", number=2)
        try:
            await stays.start()
            await stays.ready()
            await fixture.request(JOBS, scenes=SCENES)
            await _moved(fixture, guest, leaves=leaves)
            await fixture.until_done(within_s=DONE_S)
            for service in (stays, guest):
                assert await service.stop() == 0
        finally:
            await stays.kill()
            await guest.kill()
        facts = await fixture.judged()
        stalls_s = _stalls_s(fixture)

    sys.stdout.write(f"{report(f'{MOVES} moves, {leaves}', [facts])}; {_told(stalls_s)}\n")
    assert max(stalls_s) <= STALL_S_MAX[leaves]
    assert guest.count_logged("partitions.assigned") >= (MOVES + 1) // 2, "the guest had its share"
    assert checker.violations(facts) == []


async def test_without_claims_one_that_joins_pays_again(kafka: KafkaServer, tmp_path: Path) -> None:
    """It takes lanes over in the middle of their scenes: the checker sees what is paid again."""
    async with fault_fixture(kafka, tmp_path, work_s=WORK_S, partitions=4) as fixture:
        stays = fixture.service("generator", without="claims")
        guest = fixture.service("generator", number=2, without="claims")
        try:
            await stays.start()
            await stays.ready()
            await fixture.request(JOBS, scenes=4)
            await _at_work(fixture, len(JOBS))
            await guest.start()
            await guest.ready()
            await fixture.until_done()
        finally:
            await stays.kill()
            await guest.kill()
        found = checker.violations(await fixture.judged())

    assert found
    assert all(line.startswith("charged") for line in found)


async def _at_work(fixture: FaultFixture, count: int) -> None:
    """Return when the provider works on so many."""

    async def look() -> bool | None:
        return fixture.fake.running == count or None

    await eventually(look, within_s=60, what=f"{count} predictions at work")
