"""Two generators on one history; one is frozen past its session at some step, and thaws."""

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture, report, run_concurrently
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.history import Fact
from tests.faults.harness.steps import Point, Target, gaps
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

SEEDS = (1, 2, 3)
POINTS_EACH = 3
FROZEN_S = 20.0
#: more than the lease, what a provider may take to ask, and one request, so that nobody who
#: thaws can be about to ask: 2 + 10 + 5
SETTLE_S = 17.0
JOBS = [f"job-{number}" for number in range(4)]
SCENES = 4


async def _frozen(kafka: KafkaServer, folder: Path, point: Point, *, scene: int) -> list[Fact]:
    """One generator stops at `point` for a while; the other goes on; then both do."""
    async with fault_fixture(kafka, folder, settle_s=SETTLE_S, partitions=2) as fixture:
        first = fixture.service("generator", at=point, target=Target(scene=scene), freeze=True)
        second = fixture.service("generator", number=2)
        try:
            await first.start()
            await first.ready()
            await fixture.request(JOBS, scenes=SCENES)
            await first.frozen(within_s=60)
            await _thawed(fixture, first, second)
            assert await first.stop() == 0
            assert await second.stop() == 0
        finally:
            await first.kill()
            await second.kill()
        return await fixture.collect_facts()


async def _thawed(fixture: FaultFixture, first: ForkedService, second: ForkedService) -> None:
    """The other takes over while the first is frozen; both work off what comes after."""
    await second.start()
    await asyncio.sleep(FROZEN_S)
    first.send(signal.SIGCONT)
    await fixture.request(["late"], scenes=2)
    await fixture.until_done()


async def test_a_generator_that_thaws_pays_nothing_twice_and_says_nothing_wrong(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """Three seeds choose where it freezes; where it has claimed and not asked is always one."""
    points = {Point(moment="after", step="claim"): 1}
    for seed in SEEDS:
        chance = random.Random(seed)
        for point in chance.sample(gaps("generator"), POINTS_EACH):
            points.setdefault(point, chance.randrange(SCENES))

    histories = await run_concurrently(
        (
            _frozen(kafka, tmp_path / str(point).replace(":", "-"), point, scene=scene)
            for point, scene in points.items()
        ),
        at_once=len(points),
    )

    found = {
        str(point): wrong
        for point, happened in zip(points, histories, strict=True)
        if (wrong := checker.violations(happened))
    }
    sys.stdout.write(report(f"frozen at {', '.join(map(str, points))}", histories) + "\n")
    assert all(sum(fact["kind"] == "end" for fact in happened) == 1 for happened in histories)
    assert not found
