"""A generator joins or leaves every few seconds during scenes; nothing is charged twice.

The stall is the time between the end of a prediction and the request for the next of its job, by
the provider's timestamps. The short version uses the bound of a kill even for clean leaves, because
other tests on the machine add to a stall.
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
from tests.faults.harness.fault_fixture import (
    SESSION_S,
    FaultFixture,
    fault_fixture,
    report,
)
from tests.faults.harness.forked_services import ForkedService
from tests.support.composed_clips import compose_same
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

MOVES = long_or(long=12, short=5)
EVERY_S = long_or(long=10.0, short=4.0)
WORK_S = long_or(long=10.0, short=3.0)
JOBS = [f"job-{number}" for number in range(4)]
LEFT_S = 5.0  # after a clean leave
KILLED_S = SESSION_S + 5.0  # after a kill: the session must time out
STALL_S_MAX = {"stopped": long_or(long=LEFT_S, short=KILLED_S), "killed": KILLED_S}
#: enough work until the last move
SCENES = int(MOVES * EVERY_S / WORK_S) + 5
DONE_S = SCENES * (WORK_S + 10)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(long_or(long=900, short=240))]


async def _moved(fixture: FaultFixture, guest: ForkedService, *, leaves: str) -> None:
    """Start and stop (or kill) a generator in turn while jobs run."""
    for move in range(MOVES):
        await asyncio.sleep(EVERY_S)
        requested = len(fixture.fake.predictions)
        assert requested < len(JOBS) * SCENES, f"no work left at move {move}"
        if move % 2 == 0:
            await guest.start()
        elif leaves == "stopped":
            assert await guest.stop() == 0, str(guest.log)
        else:
            await guest.kill()


def _stalls_s(fixture: FaultFixture) -> list[float]:
    """Return the seconds between the end of each prediction and the request for the next."""
    calls = {call["input"]["seed"]: call for call in fixture.fake.predictions}
    stalls_s = []
    for job in JOBS:
        scenes = [calls[scene_seed(job, 1, index, 1)] for index in range(SCENES)]
        stalls_s += [
            (_timestamp(later["created_at"]) - _timestamp(earlier["completed_at"])).total_seconds()
            for earlier, later in pairwise(scenes)
        ]
    return stalls_s


def _timestamp(written: str) -> datetime:
    return datetime.fromisoformat(written)


def _summary(stalls_s: Sequence[float]) -> str:
    middle = sorted(stalls_s)[len(stalls_s) // 2]
    return f"stall: longest {max(stalls_s):.2f} s, median {middle:.2f} s of {len(stalls_s)}"


@pytest.mark.parametrize("leaves", long_or(long=["stopped", "killed"], short=["stopped"]))
async def test_joining_and_leaving_generators_charge_each_scene_once(
    kafka: KafkaServer, tmp_path: Path, leaves: str
) -> None:
    """During scenes: every scene is charged once, and all are in order."""
    async with fault_fixture(
        kafka, tmp_path, work_s=WORK_S, partitions=4, compose=compose_same
    ) as fixture:
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
        facts = await fixture.collect_facts()
        stalls_s = _stalls_s(fixture)

    sys.stdout.write(f"{report(f'{MOVES} moves, {leaves}', [facts])}; {_summary(stalls_s)}\n")
    assert max(stalls_s) <= STALL_S_MAX[leaves]
    assert guest.count_logged("partitions.assigned") >= (MOVES + 1) // 2, (
        "the guest was assigned partitions"
    )
    assert checker.violations(facts) == []


async def test_without_claims_a_joining_generator_pays_again(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """It takes over lanes during scenes; the checker reports the second charges."""
    async with fault_fixture(
        kafka, tmp_path, work_s=WORK_S, partitions=4, compose=compose_same
    ) as fixture:
        stays = fixture.service("generator", without="claims")
        guest = fixture.service("generator", number=2, without="claims")
        try:
            await stays.start()
            await stays.ready()
            await fixture.request(JOBS, scenes=4)
            await _until_processing(fixture, len(JOBS))
            await guest.start()
            await guest.ready()
            await fixture.until_done()
        finally:
            await stays.kill()
            await guest.kill()
        found = checker.violations(await fixture.collect_facts())

    assert found
    assert all(violation.startswith("charged") for violation in found)


async def _until_processing(fixture: FaultFixture, count: int) -> None:
    """Wait until the emulator processes `count` predictions."""

    async def poll() -> bool | None:
        return fixture.fake.running == count or None

    await eventually(poll, within_s=60, what=f"{count} predictions at work")
