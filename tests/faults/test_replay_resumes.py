"""A replay that is killed, interrupted or cut off from Kafka goes on: none missing, none twice."""

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
    """Events of many jobs in turns, each known by its scene."""
    return [
        a_delay(scene=i // JOBS).model_copy(update={"job_id": f"job-{i % JOBS}"})
        for i in range(count)
    ]


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers, and no service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        yield fixture


async def check(fixture: OperatorFixture, count: int) -> None:
    """Every record was said again once, where it lay and in its order."""
    log = await fixture.log(TOPIC)
    origins = [one for one in log if one.header("replay-id") is None]
    copies = [one for one in log if one.header("replay-id") is not None]
    named = Counter(one.header("replay-origin") for one in copies)
    assert len(origins) == len(copies) == count
    assert set(named.values()) == {1}
    for number in {one.partition for one in origins}:
        first = [(one.key, one.value) for one in origins if one.partition == number]
        again = [(one.key, one.value) for one in copies if one.partition == number]
        assert first == again


async def copied(fixture: OperatorFixture) -> int:
    """How far the audit says that it is."""
    rows = await fixture.api.rows(
        "SELECT (progress->>'copied')::integer AS copied FROM operator_actions ORDER BY id DESC"
    )
    return rows[0]["copied"] or 0 if rows else 0


async def begun(fixture: OperatorFixture) -> None:
    """Wait until it says records again."""
    before = await copied(fixture)

    async def poll() -> bool | None:
        return await copied(fixture) > before or None

    await eventually(poll, within_s=60, what="records said again")


async def test_killed_at_random_and_interrupted_it_goes_on_where_it_stopped(
    fixture: OperatorFixture,
) -> None:
    """Ctrl-C once, SIGKILL four times, then to its end; and a fast one for the figure."""
    chance = random.Random(SEED)
    await fixture.publish_all(delays(RECORDS))
    codes = []
    for number in [signal.SIGINT, *[signal.SIGKILL] * 4]:
        process = await fixture.start(*WORDS, "--rate", "1200")
        await begun(fixture)
        await asyncio.sleep(chance.uniform(0, 1.0))
        assert process.returncode is None, await process.communicate()
        process.send_signal(number)
        codes.append(await process.wait())
    halfway = len([one for one in await fixture.log(TOPIC) if one.header("replay-id")])

    dry = await fixture.segue(*WORDS[:2])
    done = await fixture.segue(*WORDS)
    began = time.monotonic()
    twice = await fixture.segue(*WORDS, "--restart")
    took_s = time.monotonic() - began

    sys.stdout.write(
        f"replay of {RECORDS} records, interrupted 5 times (codes {codes}), {halfway} said by "
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


async def test_kafka_goes_away_in_the_middle_and_the_same_command_goes_on(
    postgres: Database, topic_prefix: str, store_folder: Path
) -> None:
    """It ends with 3 and says how to go on; nothing is missing then, and nothing twice."""
    with short_folder() as folder:
        broker = KillableKafka(folder)
        try:
            async with operator_fixture(
                broker.bootstrap, postgres, topic_prefix, store_folder
            ) as fixture:
                await fixture.publish_all(delays(3000))
                process = await fixture.start(*WORDS, "--rate", "600")
                await begun(fixture)
                await broker.kill()
                async with asyncio.timeout(120):
                    said, _ = await process.communicate()
                await broker.start()
                done = await fixture.segue(*WORDS)

                assert process.returncode == 3, said
                assert b"run the same command again to resume" in said
                assert (done[0], done[1]["resumes"], done[1]["copied"]) == (0, True, 3000)
                await check(fixture, 3000)
        finally:
            broker.stop()
