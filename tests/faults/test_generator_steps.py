"""The generator is killed between each two steps: the same music, charged once."""

import signal
import sys
from pathlib import Path

import pytest

from shared.storage.keys import claim_key, prediction_key
from tests.faults.harness import checker
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture, report, run_concurrently
from tests.faults.harness.history import Fact
from tests.faults.harness.steps import Point, Target, gaps
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SCENES = 3
DIES_AT = 1  # it continues a clip, and the next scene continues it
JOBS = ("killed", "other")
AT_ONCE = 8  # mostly waiting for the session timeout
LostClaims = frozenset[tuple[str, int, int, int]]


async def _finished(fixture: FaultFixture) -> list[Fact]:
    """Process the rest with an unmodified generator; return the history."""
    generator = fixture.service("generator")
    await generator.start()
    try:
        await fixture.until_done()
        assert await generator.stop() == 0
    finally:
        await generator.kill()
    return await fixture.collect_facts()


async def _undisturbed(kafka: KafkaServer, folder: Path, lost: LostClaims) -> list[Fact]:
    """Return the history of a run without faults that finds these claims used."""
    async with fault_fixture(kafka, folder) as fixture:
        for job, run, scene, attempt in lost:
            await fixture.store.put(claim_key(job, run, scene, attempt), b"{}")
            await fixture.store.put(prediction_key(job, run, scene, attempt), b"")
        await fixture.request(JOBS, scenes=SCENES)
        return await _finished(fixture)


async def _died(kafka: KafkaServer, folder: Path, point: Point) -> list[Fact]:
    """Kill a generator at `point`, finish with another; return the history."""
    async with fault_fixture(kafka, folder) as fixture:
        await fixture.request(JOBS, scenes=SCENES)
        dying = fixture.service("generator", at=point, target=Target(job_id=JOBS[0], scene=DIES_AT))
        await dying.start()
        try:
            assert await dying.ended(within_s=60) == -signal.SIGKILL, f"{point}: {dying.log}"
        finally:
            await dying.kill()
        return await _finished(fixture)


async def test_a_generator_killed_at_any_step_yields_the_same_music_charged_once(
    kafka: KafkaServer, tmp_path: Path
) -> None:
    """Every gap between two steps, each with its own topics and store."""
    points = gaps("generator")
    histories = await run_concurrently(
        (_died(kafka, tmp_path / str(point).replace(":", "-"), point) for point in points),
        at_once=AT_ONCE,
    )
    lost = {checker.lost_claims(facts) for facts in histories}
    undisturbed = {
        claims: await _undisturbed(kafka, tmp_path / f"undisturbed-{number}", claims)
        for number, claims in enumerate(lost)
    }

    failures = {}
    for point, facts in zip(points, histories, strict=True):
        expected = undisturbed[checker.lost_claims(facts)]
        wrong = checker.violations(facts) + checker.differences(facts, expected)
        if [fact["at"] for fact in facts if fact["kind"] == "end"] != [str(point)]:
            wrong.append("it was not killed there")
        if wrong:
            failures[str(point)] = wrong
    sys.stdout.write(
        report(f"{len(points) - len(failures)} of {len(points)} steps", histories) + "\n"
    )
    assert not failures
