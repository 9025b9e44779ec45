"""Two generators; one is stopped at a step beyond its session timeout and resumed."""

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
#: more than the lease, the wait for a start and one request (2 + 10 + 5), so that no resumed
#: generator is about to send a request
SETTLE_S = 17.0
JOBS = [f"job-{number}" for number in range(4)]
SCENES = 4


async def _frozen(kafka: KafkaServer, folder: Path, point: Point, *, scene: int) -> list[Fact]:
    """Stop one generator at `point`, continue with the other, then resume; return the history."""
    async with fault_fixture(kafka, folder, settle_s=SETTLE_S, partitions=2) as fixture:
        first = fixture.service("generator", at=point, target=Target(scene=scene), freeze=True)
        second = fixture.service("generator", number=2)
        try:
            await first.start()
            await first.ready()
            await fixture.request(JOBS, scenes=SCENES)
            await first.frozen(within_s=60)
            await _resume(fixture, first, second)
            assert await first.stop() == 0
            assert await second.stop() == 0
        finally:
            await first.kill()
            await second.kill()
        return await fixture.collect_facts()


async def _resume(fixture: FaultFixture, first: ForkedService, second: ForkedService) -> None:
    """Let the second generator take over, resume the first, and process more jobs with both."""
    await second.start()
    await asyncio.sleep(FROZEN_S)
    first.send(signal.SIGCONT)
    await fixture.request(["late"], scenes=2)
    await fixture.until_done()


async def test_a_resumed_generator_neither_pays_twice_nor_publishes_wrong_events(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """Three seeds choose the points; the point between claim and request is always included."""
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

    failures = {
        str(point): violations
        for point, facts in zip(points, histories, strict=True)
        if (violations := checker.violations(facts))
    }
    sys.stdout.write(report(f"frozen at {', '.join(map(str, points))}", histories) + "\n")
    assert all(sum(fact["kind"] == "end" for fact in facts) == 1 for facts in histories)
    assert not failures
