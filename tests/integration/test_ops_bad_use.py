"""Invalid use of operator commands: each has a clear message, and changes nothing.

Which test covers what:

- no such topic, an offset before the retention or past the end, a future time, bounds that select
  nothing, records that are not events, an unknown job: `test_ops_replay.py` (invalid replay)
- an unknown job: here, for every command and the api
- a record that is not an event, in `segue job`: here
- a replay while another runs: `test_ops_replay.py` (one replay at a time)
- a letter that is already requeued: `test_ops_requeue.py`
- no permission to write: here (PostgreSQL), and in `test_kafka_security.py`
- Kafka gone in the middle, Ctrl-C in the middle: `faults/test_replay_resumes.py`
- very many jobs: `test_ops_watch.py` (a million in `make chaos`)
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
import typer

from ops.__main__ import app
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
#: every command that writes, with something to change
WRITING: list[tuple[str, ...]] = [
    ("replay", "scene.requested", *WHY, "--force"),
    ("dlq", "requeue", "scene.requested", *WHY),
    ("dlq", "discard", "--job", "job-1", *WHY),
    ("cancel", "job-1", *WHY),
    ("store", "sweep", *WHY),
    ("rebuild", *WHY),
]
#: every command that is given a job; the job is the last word
UNKNOWN: list[tuple[str, ...]] = [
    ("job", "nothing"),
    ("cancel", "nothing"),
    ("redrive", "nothing"),
    ("jobs", "--after", "nothing"),
    ("replay", "--job", "nothing"),
    ("dlq", "list", "--job", "nothing"),
    ("dlq", "requeue", "--job", "nothing"),
    ("dlq", "discard", "--job", "nothing"),
]
STARTS = {"score", "demo"}  # their job is a new one


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """The servers with a job of two scenes, without a service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        await fixture.api.post(job_id="job-1", scenes=TWO_SCENES)
        await fixture.publish([a_scene(index, count=2, job_id="job-1") for index in range(2)])
        [first, *_] = await fixture.log("scene.requested")
        async with running_publisher(fixture) as publisher:
            letters = DeadLetters(
                publisher, service="generator", clock=SystemClock(), consecutive_max=9
            )
            await letters.publish(first, InvalidEventError("wrong"), attempts=1)
        yield fixture


@asynccontextmanager
async def running_publisher(fixture: OperatorFixture) -> AsyncIterator[Publisher]:
    """Yield a started publisher."""
    publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
    await publisher.start()
    try:
        yield publisher
    finally:
        await publisher.stop()


@asynccontextmanager
async def a_reader(url: str) -> AsyncIterator[str]:
    """Yield the URL of a role that may read every table and write none."""
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
    """Return the rows and the records of the log."""
    tables = ("jobs", "runs", "scenes", "outbox", "operator_actions", "dead_letters")
    rows = {name: await fixture.api.rows(f"SELECT * FROM {name}") for name in tables}  # noqa: S608
    return rows, await fixture.log("scene.requested", "scene.requested.dlq", "job.cancelled")


async def test_a_role_without_write_permission_gets_exit_code_4_and_changes_nothing(
    fixture: OperatorFixture,
) -> None:
    """Every command that writes; dry runs still work."""
    before = await everything(fixture)
    async with a_reader(fixture.environment["DATABASE_URL"]) as url:
        environment = {**fixture.environment, "DATABASE_URL": url}
        dry = await asyncio.gather(*(segue(environment, *_dry(command)) for command in WRITING))
        rejected = [await segue(environment, *command) for command in WRITING]  # one at a time

    for command, plan, answer in zip(WRITING, dry, rejected, strict=True):
        # a rebuild writes a second set of rows, which this role may not create
        assert plan[0] == (4 if command[0] == "rebuild" else 0), (command, plan)
        assert answer[0] == 4, (command, answer)
        assert "permission denied" in answer[1]["error"], (command, answer)
        assert "grant this role the right" in answer[1]["error"], (command, answer)
    assert await everything(fixture) == before


def _dry(command: tuple[str, ...]) -> tuple[str, ...]:
    return command[: command.index("--apply")]


def names_a_job(command: Any) -> bool:
    """Return whether a command has a parameter for an existing job."""
    names = {name for parameter in command.params for name in (*parameter.opts, parameter.name)}
    return not names.isdisjoint({"job_id", "--job", "--after"}) and command.name not in STARTS


def commands_of(group: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """Yield every command that is given an existing job."""
    if not hasattr(group, "list_commands"):
        if names_a_job(group):
            yield names
        return
    for name in group.list_commands(None):
        yield from commands_of(group.get_command(None, name), *names, name)


async def test_an_unknown_job_has_one_message_and_exit_code_in_every_command(
    fixture: OperatorFixture,
) -> None:
    """The api's 404 has the same message; a known job without records is not unknown."""
    response = await fixture.api.client.get("/api/v3/audio/status/nothing")
    message = response.json()["detail"]

    answers = {words[: len(words) - 1]: await fixture.segue(*words) for words in UNKNOWN}
    known = await fixture.segue("dlq", "requeue", "audio.merged", "--job", "job-1")
    keyed = await fixture.segue("dlq", "list", "--job", "job-1")

    assert message.startswith("job nothing not found: ")
    assert {words: (code, answer["error"]) for words, (code, answer) in answers.items()} == (
        dict.fromkeys(answers, (4, message))
    )
    assert (known[0], "no waiting dead letter" in known[1]["error"]) == (4, True)
    assert (keyed[0], keyed[1]["count"]) == (0, 1)
    tested = {tuple(word for word in words if word[0] != "-") for words in answers}
    by_api = {("status",), ("fetch",)}  # `test_api_client.py`
    assert {*commands_of(typer.main.get_command(app))} - by_api <= tested


async def test_the_history_of_a_job_lists_a_record_that_is_not_an_event(
    fixture: OperatorFixture,
) -> None:
    """The other events are listed too."""
    async with running_publisher(fixture) as publisher:
        await publisher.send(
            topic="scene.requested", key=b"job-1", value=b"{no event", headers=(), partition=None
        )

    code, history = await fixture.segue("job", "job-1")

    summaries = [event["summary"] for event in history["events"]]
    assert code == 0, history
    assert summaries[:2] == ["scene 1/2 requested: 2.5 s", "scene 2/2 requested: 2.5 s"]
    assert summaries[-1] == "not an event"
