"""Chaos: services are killed at random, round after round, while jobs come in; nothing shows.

A round kills one of six processes with `kill -9`, waits a little, starts it again and goes on;
with every other round somebody asks for another job. Which one, when and for what: all of it
comes from one seed, which is printed. `SEGUE_CHAOS_SEED=…` brings the same draws again,
`SEGUE_CHAOS=long` (`make chaos`) a hundred rounds instead of a few. What the draws hit in the
processes is still their own timing.
"""

import asyncio
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.storage.keys import claim_key, prediction_key
from tests.faults.harness import checker
from tests.faults.harness.durations import SEED, long_or
from tests.faults.harness.fault_fixture import FaultFixture, report
from tests.faults.harness.forked_services import Forked
from tests.faults.harness.history import Fact, append
from tests.faults.harness.pipeline_harness import WORKERS, Job, ended, full_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

ROUNDS = long_or(long=100, short=8)
BOUND_S = long_or(long=45 * 60, short=240)
END_S = long_or(long=300.0, short=120.0)  # for what is left, once nobody dies any more

pytestmark = [pytest.mark.integration, pytest.mark.timeout(BOUND_S)]

DOWN_S, UP_S = (0.1, 1.0), (1.0, 3.0)  # between death and new start, and until the next death
LostClaims = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What happens in one round."""

    victim: int
    down_s: float
    up_s: float
    job: Job | None


def _drawn(seed: int, *, rounds: int, victims: int) -> list[Round]:
    """Everything that is left to chance."""
    chance = random.Random(seed)
    found = []
    for number in range(rounds):
        job = Job(
            name=f"job-{number}", scene_count=chance.randint(2, 4), has_film=chance.random() < 0.3
        )
        found.append(
            Round(
                victim=chance.randrange(victims),
                down_s=chance.uniform(*DOWN_S),
                up_s=chance.uniform(*UP_S),
                job=job if number % 2 == 0 else None,
            )
        )
    return found


async def _disturbed(
    kafka: KafkaServer, database: str, folder: Path, rounds: Sequence[Round]
) -> list[Fact]:
    """The rounds, one after the other, and what is left then."""
    async with full_pipeline(kafka, database, folder) as (fixture, client, running):
        for number, one in enumerate(rounds):
            if one.job is not None:
                await client.request(one.job)
            await asyncio.sleep(one.up_s)
            await _killed(fixture, running[one.victim], number)
            await asyncio.sleep(one.down_s)
            await running[one.victim].start()
        return await ended(fixture, client, running, within_s=END_S)


async def _killed(fixture: FaultFixture, victim: Forked, number: int) -> None:
    victim.send(signal.SIGKILL)
    code = await victim.ended(within_s=10)
    assert code == -signal.SIGKILL, f"{victim.log} ended by itself: {code}"
    append(
        fixture.history.path, kind="end", service=victim.name, at=f"round {number}", how="killed"
    )


async def _undisturbed(
    kafka: KafkaServer, database: str, folder: Path, jobs: Sequence[Job], lost: LostClaims
) -> list[Fact]:
    """The same jobs in peace, where the same claims had been used up."""
    async with full_pipeline(kafka, database, folder) as (fixture, client, running):
        for job, run, scene, attempt in lost:
            await fixture.store.put(claim_key(job, run, scene, attempt), b"{}")
            await fixture.store.put(prediction_key(job, run, scene, attempt), b"")
        for one in jobs:
            await client.request(one)
        return await ended(fixture, client, running, within_s=END_S)


def _bill(history: Sequence[Fact]) -> Mapping[str, int]:
    return {what: checker.figures(history)[what] for what in ("charged", "scenes", "ends")}


async def test_whoever_is_killed_whenever_nothing_of_it_shows(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Rounds of `kill -9`: lost 0, order kept, no status backwards, charged once, same music."""
    sys.stdout.write(f"SEGUE_CHAOS_SEED={SEED}: {ROUNDS} rounds\n")
    rounds = _drawn(SEED, rounds=ROUNDS, victims=WORKERS + 3)
    jobs = [one.job for one in rounds if one.job is not None]

    happened = await _disturbed(kafka, await postgres(), tmp_path / "disturbed", rounds)
    lost = checker.lost_claims(happened)
    peace = await _undisturbed(kafka, await postgres(), tmp_path / "undisturbed", jobs, lost)

    told = sum(fact["kind"] == "status" for fact in happened)
    deaths = f"{told} statuses told, {len(lost)} claims used up by a death"
    sys.stdout.write(report(f"chaos, seed {SEED}", [happened]) + f"; {deaths}\n")
    assert checker.violations(happened) == []
    assert checker.differences(happened, peace) == []
    assert checker.violations(peace) == []
    scenes = sum(job.scene_count for job in jobs)
    assert _bill(happened) == {"charged": scenes, "scenes": scenes, "ends": ROUNDS}


async def test_without_claims_a_few_deaths_are_enough(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Every generator dies once while the provider works: the checker sees what is paid again."""
    work_s = 4.0
    pipeline = full_pipeline(kafka, await postgres(), tmp_path, work_s=work_s, without="claims")
    async with pipeline as (fixture, client, running):
        await client.request(Job(name="job-0", scene_count=2, has_film=False))

        async def asked() -> bool | None:
            return fixture.fake.running == 1 or None

        await eventually(asked, within_s=40, what="a prediction at work")
        for number, victim in enumerate(running[:WORKERS]):
            await _killed(fixture, victim, number)
        for victim in running[:WORKERS]:
            await victim.start()
        found = checker.violations(await ended(fixture, client, running))

    assert found == ["charged: scene 0 of job-0/1 2 times"]
