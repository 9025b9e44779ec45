"""Bad use of the operators' commands: each has a clear answer, and changes nothing.

Which test holds what:

- no such topic, an offset before the retention or past the end, a time to come, bounds that select
  nothing, records that are no events, no such job: `test_ops_replay.py` (what cannot be said again)
- a job that nobody knows, asked for by other commands: `test_ops_replay.py`, `test_api_cancel.py`
- a record that is no event, in the story of its job: here
- a replay while another runs: `test_ops_replay.py` (one replay at a time)
- something that was requeued already: `test_ops_requeue.py`
- no right to write: here (PostgreSQL), and in `test_kafka_security.py`
- Kafka gone in the middle, Ctrl-C in the middle: `faults/test_replay_resumes.py`
- a million jobs: `test_ops_watch.py` (a page of a million jobs)
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from shared.clock import SystemClock
from shared.errors import InvalidEventError
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.producer import Publisher
from tests.support.api_fixture import TWO_SCENES
from tests.support.event_builders import a_scene
from tests.support.operator_commands import OperatorFixture, operator_fixture, segue
from tests.support.servers import Database, KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
WHY = ("--apply", "--reason", "to see")
#: every command that writes, with something to write
WRITING: list[tuple[str, ...]] = [
    ("replay", "scene.requested", *WHY, "--force"),
    ("dlq", "requeue", "scene.requested", *WHY),
    ("dlq", "discard", "--job", "job-1", *WHY),
    ("cancel", "job-1", *WHY),
    ("store", "sweep", *WHY),
    ("rebuild", *WHY),
]


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers with a job of two scenes, and no service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        await fixture.api.post(job_id="job-1", scenes=TWO_SCENES)
        await fixture.publish([a_scene(index, count=2, job_id="job-1") for index in range(2)])
        [first, *_] = await fixture.log("scene.requested")
        async with said(fixture) as publisher:
            letters = DeadLetters(
                publisher, service="generator", clock=SystemClock(), consecutive_max=9
            )
            await letters.publish(first, InvalidEventError("wrong"), attempts=1)
        yield fixture


@asynccontextmanager
async def said(fixture: OperatorFixture) -> AsyncIterator[Publisher]:
    """A publisher that runs."""
    publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


@asynccontextmanager
async def a_reader(url: str) -> AsyncIterator[str]:
    """A role that may read every table and write none: its URL."""
    name, password = f"segue_reader_{secrets.token_hex(4)}", secrets.token_hex(8)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        parts = urlsplit(url)
        where = parts.netloc.rpartition("@")[2]
        yield parts._replace(netloc=f"{name}:{quote(password)}@{where}").geturl()
    finally:
        await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
        await connection.close()


async def everything(fixture: OperatorFixture) -> Any:
    """The rows, and what is on the log."""
    tables = ("jobs", "runs", "scenes", "outbox", "operator_actions", "dead_letters")
    rows = {name: await fixture.api.rows(f"SELECT * FROM {name}") for name in tables}  # noqa: S608
    return rows, await fixture.log("scene.requested", "scene.requested.dlq", "job.cancelled")


async def test_who_may_not_write_to_postgresql_is_told_so_and_changes_nothing(
    fixture: OperatorFixture,
) -> None:
    """Every command that writes; each may still be looked at."""
    before = await everything(fixture)
    async with a_reader(fixture.environment["DATABASE_URL"]) as url:
        environment = {**fixture.environment, "DATABASE_URL": url}
        looked = await asyncio.gather(*(segue(environment, *_dry(words)) for words in WRITING))
        refused = [await segue(environment, *words) for words in WRITING]  # one at a time

    for words, look, answer in zip(WRITING, looked, refused, strict=True):
        # a rebuild compares with rows of its own, which it may not write beside the others
        assert look[0] == (4 if words[0] == "rebuild" else 0), (words, look)
        assert answer[0] == 4, (words, answer)
        assert "permission denied" in answer[1]["error"], (words, answer)
        assert "grant this role the right" in answer[1]["error"], (words, answer)
    assert await everything(fixture) == before


def _dry(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[: words.index("--apply")]


async def test_a_record_that_is_no_event_is_told_in_the_story_of_its_job(
    fixture: OperatorFixture,
) -> None:
    """The story goes on around it."""
    async with said(fixture) as publisher:
        await publisher.send(
            topic="scene.requested", key=b"job-1", value=b"{no event", headers=(), partition=None
        )

    code, told = await fixture.segue("job", "job-1")

    says = [one["summary"] for one in told["events"]]
    assert code == 0, told
    assert says[:2] == ["scene 1/2 requested: 2.5 s", "scene 2/2 requested: 2.5 s"]
    assert says[-1] == "not an event"
