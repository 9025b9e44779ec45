"""Services are killed at random while jobs run; the results are those of a run without faults.

Each round kills one of six processes with SIGKILL and restarts it; every other round requests a
job. One seed, which is printed, determines the victims, times and jobs. `SEGUE_CHAOS_SEED=…`
repeats the draws, `SEGUE_CHAOS=long` (`make chaos`) runs a hundred rounds instead of a few. The
steps at which the processes are killed still depend on their timing.
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
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.history import Fact, append
from tests.faults.harness.pipeline_harness import WORKERS, Job, ended, full_pipeline
from tests.support.processes import eventually
from tests.support.servers import Database, KafkaServer

ROUNDS = long_or(long=100, short=8)
BOUND_S = long_or(long=45 * 60, short=240)
END_S = long_or(long=300.0, short=120.0)  # for the rest, after the last kill

pytestmark = [pytest.mark.integration, pytest.mark.timeout(BOUND_S)]

DOWN_S, UP_S = (0.1, 1.0), (1.0, 3.0)  # from kill to restart, and to the next kill
LostClaims = frozenset[tuple[str, int, int, int]]


@dataclass(frozen=True, kw_only=True)
class Round:
    """The kill and the job of one round."""

    victim: int
    down_s: float
    up_s: float
    job: Job | None


def _drawn(seed: int, *, rounds: int, victims: int) -> list[Round]:
    """Return the rounds of a seed."""
    chance = random.Random(seed)
    drawn = []
    for number in range(rounds):
        job = Job(
            name=f"job-{number}", scene_count=chance.randint(2, 4), has_video=chance.random() < 0.3
        )
        drawn.append(
            Round(
                victim=chance.randrange(victims),
                down_s=chance.uniform(*DOWN_S),
                up_s=chance.uniform(*UP_S),
                job=job if number % 2 == 0 else None,
            )
        )
    return drawn


async def _disturbed(
    kafka: KafkaServer, database: str, folder: Path, rounds: Sequence[Round]
) -> list[Fact]:
    """Run the rounds; return the history."""
    async with full_pipeline(kafka, database, folder) as (fixture, client, running):
        for number, drawn in enumerate(rounds):
            if drawn.job is not None:
                await client.request(drawn.job)
            await asyncio.sleep(drawn.up_s)
            await _kill(fixture, running[drawn.victim], number)
            await asyncio.sleep(drawn.down_s)
            await running[drawn.victim].start()
        return await ended(fixture, client, running, within_s=END_S)


async def _kill(fixture: FaultFixture, victim: ForkedService, number: int) -> None:
    victim.send(signal.SIGKILL)
    code = await victim.ended(within_s=10)
    assert code == -signal.SIGKILL, f"{victim.log} ended with {code}"
    append(
        fixture.history.path, kind="end", service=victim.name, at=f"round {number}", how="killed"
    )


async def _undisturbed(
    kafka: KafkaServer, database: str, folder: Path, jobs: Sequence[Job], lost: LostClaims
) -> list[Fact]:
    """Run the same jobs without faults, with the same claims used; return the history."""
    async with full_pipeline(kafka, database, folder) as (fixture, client, running):
        for job, run, scene, attempt in lost:
            await fixture.store.put(claim_key(job, run, scene, attempt), b"{}")
            await fixture.store.put(prediction_key(job, run, scene, attempt), b"")
        for requested in jobs:
            await client.request(requested)
        return await ended(fixture, client, running, within_s=END_S)


def _bill(history: Sequence[Fact]) -> Mapping[str, int]:
    return {what: checker.figures(history)[what] for what in ("charged", "scenes", "ends")}


async def test_random_kills_do_not_change_the_results(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Nothing lost, order kept, no status moves back, each scene charged once, the same music."""
    sys.stdout.write(f"SEGUE_CHAOS_SEED={SEED}: {ROUNDS} rounds\n")
    rounds = _drawn(SEED, rounds=ROUNDS, victims=WORKERS + 3)
    jobs = [drawn.job for drawn in rounds if drawn.job is not None]

    facts = await _disturbed(kafka, await postgres(), tmp_path / "disturbed", rounds)
    lost = checker.lost_claims(facts)
    expected = await _undisturbed(kafka, await postgres(), tmp_path / "undisturbed", jobs, lost)

    statuses = sum(fact["kind"] == "status" for fact in facts)
    deaths = f"{statuses} statuses polled, {len(lost)} claims lost by a kill"
    sys.stdout.write(report(f"chaos, seed {SEED}", [facts]) + f"; {deaths}\n")
    assert checker.violations(facts) == []
    assert checker.differences(facts, expected) == []
    assert checker.violations(expected) == []
    scenes = sum(job.scene_count for job in jobs)
    assert _bill(facts) == {"charged": scenes, "scenes": scenes, "ends": ROUNDS}


async def test_without_claims_kills_charge_a_scene_twice(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Every generator is killed once during a prediction; the checker reports the second charge."""
    work_s = 4.0
    pipeline = full_pipeline(kafka, await postgres(), tmp_path, work_s=work_s, without="claims")
    async with pipeline as (fixture, client, running):
        await client.request(Job(name="job-0", scene_count=2, has_video=False))

        async def is_processing() -> bool | None:
            return fixture.fake.running == 1 or None

        await eventually(is_processing, within_s=40, what="a prediction at work")
        for number, victim in enumerate(running[:WORKERS]):
            await _kill(fixture, victim, number)
        for victim in running[:WORKERS]:
            await victim.start()
        found = checker.violations(await ended(fixture, client, running))

    assert found == ["charged: scene 0 of job-0/1 2 times"]
