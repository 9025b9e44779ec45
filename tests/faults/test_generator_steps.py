"""The generator dies between each pair of its steps; the same music, paid for once."""

import signal
import sys
from pathlib import Path

import pytest

from shared.storage.keys import claim_key, prediction_key
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture, report, together
from tests.faults.harness.history import Fact
from tests.faults.harness.steps import Point, Target, gaps
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCENES = 3
DIES_AT = 1  # the middle one: it continues a clip, and is continued
JOBS = ("the one", "its neighbour")
AT_ONCE = 8  # on two cores; a death is mostly waiting for the group to notice
LostClaims = frozenset[tuple[str, int, int, int]]


async def _finished(fixture: FaultFixture) -> list[Fact]:
    """Work off what is there with a generator as it ships; everything that happened."""
    generator = fixture.service("generator")
    await generator.start()
    try:
        await fixture.until_done()
        assert await generator.stop() == 0
    finally:
        await generator.kill()
    return await fixture.judged()


async def _undisturbed(kafka: KafkaServer, folder: Path, lost: LostClaims) -> list[Fact]:
    """What a run brings that nothing disturbs, but that finds these claims used up."""
    async with fault_fixture(kafka, folder) as fixture:
        for job, run, scene, attempt in lost:
            await fixture.store.put(claim_key(job, run, scene, attempt), b"{}")
            await fixture.store.put(prediction_key(job, run, scene, attempt), b"")
        await fixture.request(JOBS, scenes=SCENES)
        return await _finished(fixture)


async def _died(kafka: KafkaServer, folder: Path, point: Point) -> list[Fact]:
    """A generator that dies at `point`, and one that finishes its work."""
    async with fault_fixture(kafka, folder) as fixture:
        await fixture.request(JOBS, scenes=SCENES)
        dying = fixture.service("generator", at=point, target=Target(job_id=JOBS[0], scene=DIES_AT))
        await dying.start()
        try:
            assert await dying.ended(within_s=60) == -signal.SIGKILL, f"{point}: {dying.log}"
        finally:
            await dying.kill()
        return await _finished(fixture)


async def test_whatever_step_it_dies_at_the_music_is_the_same_and_paid_once(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """Every gap between two steps, each on topics and a store of its own."""
    points = gaps("generator")
    histories = await together(
        (_died(kafka, tmp_path / str(point).replace(":", "-"), point) for point in points),
        at_once=AT_ONCE,
    )
    lost = {checker.lost_claims(happened) for happened in histories}
    undisturbed = {
        claims: await _undisturbed(kafka, tmp_path / f"undisturbed-{number}", claims)
        for number, claims in enumerate(lost)
    }

    found = {}
    for point, happened in zip(points, histories, strict=True):
        expected = undisturbed[checker.lost_claims(happened)]
        wrong = checker.violations(happened) + checker.differences(happened, expected)
        if [fact["at"] for fact in happened if fact["kind"] == "end"] != [str(point)]:
            wrong.append("it did not die there")
        if wrong:
            found[str(point)] = wrong
    sys.stdout.write(report(f"{len(points) - len(found)} of {len(points)} steps", histories) + "\n")
    assert not found
