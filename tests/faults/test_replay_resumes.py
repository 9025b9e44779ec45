"""A replay that is killed, interrupted or loses Kafka resumes: no record missing or duplicated."""

import asyncio
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.contract.events import SceneDelayed
from tests.faults.harness.durations import SEED
from tests.faults.harness.killable_servers import KillableKafka, short_folder
from tests.support.operator_commands import OperatorFixture, operator_fixture
from tests.support.processes import eventually
from tests.support.run_builders import a_delay
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
TOPIC = SceneDelayed.kind
RECORDS, JOBS = 12_000, 60
WORDS = ("replay", TOPIC, "--apply", "--reason", "to see")


def delays(count: int) -> list[SceneDelayed]:
    """Return interleaved events of many jobs."""
    return [
        a_delay(scene=i // JOBS).model_copy(update={"job_id": f"job-{i % JOBS}"})
        for i in range(count)
    ]


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers without services."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        yield fixture


async def assert_replayed_once(fixture: OperatorFixture, count: int) -> None:
    """Every record was replayed once, to its partition and in order."""
    log = await fixture.log(TOPIC)
    origins = [record for record in log if record.header("replay-id") is None]
    copies = [record for record in log if record.header("replay-id") is not None]
    named = Counter(record.header("replay-origin") for record in copies)
    assert len(origins) == len(copies) == count
    assert set(named.values()) == {1}
    for number in {record.partition for record in origins}:
        first = [(r.key, r.value) for r in origins if r.partition == number]
        replayed = [(r.key, r.value) for r in copies if r.partition == number]
        assert first == replayed


async def copied(fixture: OperatorFixture) -> int:
    """Return the number of copied records in the audit row."""
    rows = await fixture.api.rows(
        "SELECT (progress->>'copied')::integer AS copied FROM operator_actions ORDER BY id DESC"
    )
    return rows[0]["copied"] or 0 if rows else 0


async def started(fixture: OperatorFixture) -> None:
    """Wait until the replay has copied more records."""
    before = await copied(fixture)

    async def poll() -> bool | None:
        return await copied(fixture) > before or None

    await eventually(poll, within_s=60, what="replayed records")


async def test_a_killed_or_interrupted_replay_resumes_where_it_stopped(
    fixture: OperatorFixture,
) -> None:
    """SIGINT once, SIGKILL four times, then to its end; and an undisturbed one for the rate."""
    chance = random.Random(SEED)
    await fixture.publish_all(delays(RECORDS))
    codes = []
    for number in [signal.SIGINT, *[signal.SIGKILL] * 4]:
        process = await fixture.start(*WORDS, "--rate", "1200")
        await started(fixture)
        await asyncio.sleep(chance.uniform(0, 1.0))
        assert process.returncode is None, await process.communicate()
        process.send_signal(number)
        codes.append(await process.wait())
    halfway = len([one for one in await fixture.log(TOPIC) if one.header("replay-id")])

    dry = await fixture.segue(*WORDS[:2])
    done = await fixture.segue(*WORDS)
    start_s = time.monotonic()
    twice = await fixture.segue(*WORDS, "--restart")
    took_s = time.monotonic() - start_s

    sys.stdout.write(
        f"replay of {RECORDS} records, interrupted 5 times (codes {codes}), {halfway} copied by "
        f"then; whole with start and plan {RECORDS / took_s:.0f}/s\n"
    )
    assert codes == [130, *[-signal.SIGKILL] * 4]
    assert 0 < halfway < RECORDS
    assert (dry[1]["resumes"], dry[1]["records"]) == (True, RECORDS)
    assert (done[0], done[1]["copied"]) == (0, RECORDS)
    assert (twice[0], twice[1]["copied"]) == (0, RECORDS)
    rows = await fixture.api.rows("SELECT id, state FROM operator_actions ORDER BY id")
    assert [row["state"] for row in rows] == ["done", "done"]
    log = [one for one in await fixture.log(TOPIC) if one.header("replay-id") != str(rows[1]["id"])]
    assert Counter(one.header("replay-origin") for one in log if one.header("replay-id")) == {
        f"{one.topic}/{one.partition}/{one.offset}": 1
        for one in log
        if one.header("replay-id") is None
    }


async def test_a_replay_that_lost_kafka_resumes_with_the_same_command(
    postgres: Database, topic_prefix: str, store_folder: Path
) -> None:
    """Exit code 3 and the command to resume; then no record is missing or duplicated."""
    with short_folder() as folder:
        broker = KillableKafka(folder)
        try:
            async with operator_fixture(
                broker.bootstrap, postgres, topic_prefix, store_folder
            ) as fixture:
                await fixture.publish_all(delays(3000))
                process = await fixture.start(*WORDS, "--rate", "600")
                await started(fixture)
                await broker.kill()
                async with asyncio.timeout(120):
                    output, _ = await process.communicate()
                await broker.start()
                done = await fixture.segue(*WORDS)

                assert process.returncode == 3, output
                assert b"run the same command again to resume" in output
                assert (done[0], done[1]["resumes"], done[1]["copied"]) == (0, True, 3000)
                await assert_replayed_once(fixture, 3000)
        finally:
            broker.stop()
