"""Tests of `segue watch`, `jobs`, `topics` and `doctor` on real servers."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from services.api.database import job_list
from services.api.database.job_list import LISTED
from shared.clock import SystemClock
from shared.contract.events import JobFailed, SceneRequested, Stage, WaitCode
from shared.errors import UndecodableError
from shared.kafka.admin import TopicDescription, admin_client, describe_topics
from shared.kafka.alter_configs import set_topic_configs
from shared.kafka.codec import Record
from shared.kafka.dead_letters import DeadLetters
from shared.kafka.producer import Publisher
from tests.faults.harness.durations import long_or
from tests.support.api_fixture import NOWHERE, TWO_SCENES
from tests.support.event_builders import a_segment
from tests.support.operator_commands import OperatorFixture, operator_fixture
from tests.support.processes import eventually
from tests.support.run_builders import a_delay
from tests.support.servers import Database, KafkaServer, PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
JOBS = long_or(short=100_000, long=1_000_000)
PAGE_S_MAX = 5.0  # 3 ms alone; the machine may be busy, and without an index it takes longer


@pytest.fixture
async def fixture(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, store_folder: Path
) -> AsyncIterator[OperatorFixture]:
    """Yield four jobs in different stages, without any service."""
    async with operator_fixture(kafka.bootstrap, postgres, topic_prefix, store_folder) as fixture:
        for name in ("made", "waits", "failed"):
            await fixture.api.post(job_id=name, scenes=TWO_SCENES)
        merging = [
            a_segment(index, count=2).model_copy(update={"job_id": "made", "cost_usd": 0.25})
            for index in range(2)
        ]
        waits = a_delay().model_copy(update={"job_id": "waits"})
        failed = JobFailed(
            job_id="failed", run=1, stage=Stage.MUX, code="c", message="no film", scene_index=None
        )
        await fixture.api.apply(*merging, waits, failed)
        await fixture.api.rows("INSERT INTO jobs (job_id, created_at, updated_at) "
                               "VALUES ('known', now() - interval '1 h', now())")  # fmt: skip
        yield fixture


async def publish_dead_letter(fixture: OperatorFixture) -> None:
    """Publish one record that a merger could not decode."""
    publisher = Publisher(fixture.kafka, source="test", clock=SystemClock())
    await publisher.start()
    letters = DeadLetters(publisher, service="merger", clock=SystemClock(), consecutive_max=9)
    record = Record(topic="segment.generated", partition=0, offset=3, key=b"made", value=b"{")
    try:
        await letters.publish(record, UndecodableError("no JSON"), attempts=1)
    finally:
        await publisher.stop()


@asynccontextmanager
async def group_member(fixture: OperatorFixture, service: str) -> AsyncIterator[None]:
    """Run a consumer in the group of a service."""
    prefix = fixture.kafka.topic_prefix
    consumer = AIOKafkaConsumer(
        prefix + SceneRequested.kind,
        bootstrap_servers=fixture.kafka.bootstrap_servers,
        group_id=f"{prefix}segue-{service}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            while not consumer.assignment():
                await consumer.getmany(timeout_ms=100)
        yield
    finally:
        await consumer.stop()


async def run_plain(
    fixture: OperatorFixture, *arguments: str, **environment: str
) -> tuple[int, str]:
    """Run a command without `--json`; return its exit code and output."""
    fixture = replace(fixture, environment={**fixture.environment, **environment})
    process = await fixture.start_plain(*arguments)
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_snapshot_shows_members_lag_jobs_and_dead_letters(
    fixture: OperatorFixture,
) -> None:
    """Lag in records and seconds, jobs by stage, costs, waiting scenes."""
    requests = [
        SceneRequested(job_id=f"j{n}", scene_index=0, scene_count=1, duration_s=1.5)
        for n in range(3)
    ]
    await fixture.publish(requests, partition=0)
    await publish_dead_letter(fixture)

    async with group_member(fixture, "generator"):
        code, snapshot = await fixture.segue("watch", "--ask", f"generator=http://{NOWHERE}")
        screen = await run_plain(fixture, "watch", "--once")

    services = {service["name"]: service for service in snapshot["services"]}
    assert code == 0
    assert {name: service["members"] for name, service in services.items()} == {
        "api": 0,
        "generator": 1,
        "merger": 0,
        "muxer": 0,
    }
    generator = services["generator"]
    assert (generator["records"], generator["behind_on"]) == (3, "scene.requested")
    assert 0 < generator["seconds"] < 120
    assert generator["unready"] == "1 of 1 do not answer"
    assert services["api"]["records"] == 3
    assert snapshot["stages"] == {"submitted": 1, "generating": 0, "merging": 1, "muxing": 0}
    assert snapshot["ended_today"] == {"failed": 1}
    assert (snapshot["spent_today_usd"], snapshot["spent_usd"]) == (0.5, 0.5)
    assert snapshot["dead_letters"] == {"segment.generated": 1}
    assert snapshot["waiting_scenes"] == 1
    assert {job["job_id"] for job in snapshot["oldest"]} == {"made", "waits"}
    actions = {problem["do"] for problem in snapshot["problems"]}
    assert actions >= {"segue dlq list", "segue jobs --waiting"}
    assert screen[0] == 0
    assert "1 waiting: segment.generated 1" in screen[1]


async def test_an_unavailable_server_is_shown_and_found_again(
    fixture: OperatorFixture, kafka: KafkaServer, postgres_server: PostgresServer
) -> None:
    """Without Kafka one snapshot has exit code 3 and the other figures; `watch` keeps running."""
    nowhere = {"KAFKA_BOOTSTRAP_SERVERS": NOWHERE}
    no_kafka = await replace(fixture, environment={**fixture.environment, **nowhere}).segue("watch")
    async with relay(kafka.bootstrap) as (address, switch):
        watching = replace(
            fixture, environment={**fixture.environment, "KAFKA_BOOTSTRAP_SERVERS": address}
        )
        process = await watching.start_plain("watch", "--every", "0.5", "--for", "60")
        assert process.stdout is not None
        headers = []
        try:
            async with asyncio.timeout(60):
                states = (True, "Kafka up"), (False, "Kafka unavailable"), (True, "Kafka up")
                for on, text in states:
                    switch.on = on
                    while text not in (line := (await process.stdout.readline()).decode()):
                        assert line, "the command ended"
                    headers.append(line)
            process.terminate()
            await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    no_database = await without_database(fixture, postgres_server).segue("watch")

    assert (no_kafka[0], no_kafka[1]["services"]) == (3, None)
    assert no_kafka[1]["stages"]["submitted"] == 1
    assert no_kafka[1]["kafka"]["problem"]
    assert all("PostgreSQL up   store up" in line for line in headers)
    assert process.returncode == 0
    assert (no_database[0], "PostgreSQL" in no_database[1]["error"]) == (3, True)


async def test_every_command_about_jobs_names_the_servers_that_are_unavailable(
    fixture: OperatorFixture,
) -> None:
    """The provider is one of them while scenes wait for a person to act."""
    paused = a_delay().model_copy(
        update={"job_id": "waits", "code": WaitCode.PROVIDER_PAUSED, "reason": "no credit"}
    )
    await fixture.api.apply(paused)
    no_store = {
        **fixture.environment,
        "SEGUE_STORE_DIR": "",
        "MINIO_ENDPOINT": f"http://{NOWHERE}",
        "MINIO_ACCESS_KEY": "a-key",
        "MINIO_SECRET_KEY": "a-secret",
    }
    nothing = {**no_store, "KAFKA_BOOTSTRAP_SERVERS": NOWHERE}

    listed, history, watched, no_kafka, healthy, failed = await asyncio.gather(
        replace(fixture, environment=nothing).segue("jobs"),
        replace(fixture, environment=no_store).segue("job", "waits"),
        replace(fixture, environment=no_store).segue("watch"),
        replace(fixture, environment=nothing).segue("job", "waits"),
        fixture.segue("job", "made"),
        fixture.segue("job", "failed"),  # its events are no longer in the log
    )

    kafka, store, provider = listed[1]["problems"]
    assert kafka == f"Kafka at {NOWHERE} is unavailable: no broker responds"
    assert store.startswith("the store is unavailable: ")
    assert provider == "the provider is paused: no credit"
    assert history[1]["problems"][0].startswith("the store is unavailable: ")
    assert history[1]["problems"][1:] == [provider]
    assert (watched[0], watched[1]["store"]["answers"]) == (3, False)
    assert {"the store is unavailable", "the provider is paused"} <= {
        problem["what"].partition(":")[0] for problem in watched[1]["problems"]
    }
    assert (no_kafka[0], no_kafka[1]["error"]) == (3, f"Kafka at {NOWHERE}: no broker responds")
    assert [healthy[0], *healthy[1]["problems"]] == [0, provider]
    assert (failed[0], failed[1]["cause"]) == (0, {"summary": "failed: no film"})


class Switch:
    """Turns the relay on and off."""

    on = True


@asynccontextmanager
async def relay(target: str) -> AsyncIterator[tuple[str, Switch]]:
    """Yield an address that forwards to `target` while the switch is on."""
    host, _, port = target.partition(":")
    switch = Switch()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not switch.on:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        tasks.update(
            asyncio.create_task(pump(source, target))
            for source, target in ((reader, up_writer), (up_reader, writer))
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", switch
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def without_database(fixture: OperatorFixture, server: PostgresServer) -> OperatorFixture:
    """Return the fixture with a database that does not exist."""
    url = server.url.replace("/segue", "/does_not_exist", 1)
    return replace(fixture, environment={**fixture.environment, "DATABASE_URL": url})


async def test_jobs_are_listed_newest_first_and_filtered(fixture: OperatorFixture) -> None:
    """Filters are status, waiting and time; pages are limited."""
    everything = await fixture.segue("jobs")
    first = await fixture.segue("jobs", "--limit", "2")
    rest = await fixture.segue("jobs", "--after", first[1]["next"], "--since", "2020-01-01")
    ended = await fixture.segue("jobs", "--failed", "--status", "pending")
    waiting = await fixture.segue("jobs", "--waiting")

    def names(result: tuple[int, dict[str, Any]]) -> list[str]:
        assert result[0] == 0
        return [job["job_id"] for job in result[1]["jobs"]]

    assert names(everything) == ["failed", "waits", "made", "known"]
    assert (names(first), names(rest)) == (["failed", "waits"], ["made", "known"])
    assert (first[1]["next"], rest[1]["next"]) == ("waits", None)
    assert (names(ended), ended[1]["jobs"][0]["error"]) == (["failed", "known"], "no film")
    assert (names(waiting), waiting[1]["jobs"][0]["waits"]) == (["waits"], "Replicate wants credit")
    merging = everything[1]["jobs"][2]
    assert (merging["status"], merging["scenes_done"], merging["scene_count"]) == ("merging", 2, 2)
    assert merging["cost_usd"] == 0.5


async def test_jobs_reports_invalid_input_and_missing_tables(fixture: OperatorFixture) -> None:
    """An unknown status, an unknown job, a database without the tables."""
    status = await fixture.segue("jobs", "--status", "done")
    after = await fixture.segue("jobs", "--after", "unknown")
    url = fixture.environment["DATABASE_URL"]
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE operator_actions")
    await connection.close()
    no_tables = await fixture.segue("jobs")

    assert (status[0], "status done not found" in status[1]["error"]) == (2, True)
    assert (after[0], "job unknown not found" in after[1]["error"]) == (4, True)
    assert (no_tables[0], "start the api once" in no_tables[1]["error"]) == (4, True)


async def test_a_page_of_very_many_jobs_is_read_from_an_index(fixture: OperatorFixture) -> None:
    """The newest, the failed, a page in the middle and a snapshot; durations are printed."""
    connection = await asyncpg.connect(fixture.environment["DATABASE_URL"])
    try:
        await insert_jobs(connection, JOBS)
        plan = "\n".join(row[0] for row in await connection.fetch(explain_page(["failed"])))
        durations_s = {}
        commands = {
            "job": ("job", f"m{JOBS // 2}"),
            "jobs": ("jobs", "--failed"),
            "watch": ("watch",),
        }
        for name, arguments in commands.items():
            began_s = time.monotonic()
            code, result = await fixture.segue(*arguments)
            durations_s[f"segue {name}"] = round(time.monotonic() - began_s, 3)
            assert code == 0, result
        middle = await job_list.position_of(connection, f"m{JOBS // 2}")
        began_s = time.monotonic()
        page = await job_list.page(connection, LISTED, after=middle, count=20)
        durations_s["a page"] = round(time.monotonic() - began_s, 4)
        since = datetime.now(UTC) - timedelta(seconds=1000)  # noqa: TID251 - as the rows were dated
        recent = await job_list.page(connection, ["failed"], since=since, count=20)
        await connection.execute(
            "TRUNCATE jobs CASCADE", timeout=60
        )  # otherwise closing the fixture takes long
    finally:
        await connection.close()

    sys.stdout.write(f"of {JOBS} jobs, in seconds: {durations_s}\n")
    assert "runs_by_status" in plan
    assert "Seq Scan" not in plan
    assert [job.job_id for job in page[:2]] == [f"m{JOBS // 2 + 1}", f"m{JOBS // 2 + 2}"]
    assert len(page) == 20
    assert 8 <= len(recent) <= 10
    assert durations_s["a page"] < PAGE_S_MAX


def explain_page(statuses: list[str]) -> str:
    """Return an EXPLAIN of the query of `segue jobs`."""
    end, start = "2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z"
    query = job_list._PAGE.format(waiting="")
    for number, value in enumerate(
        (f"ARRAY['{statuses[0]}']", f"'{end}'::timestamptz", "''", f"'{start}'::timestamptz", "21",
         "true"), start=1):  # fmt: skip
        query = query.replace(f"${number}::text[]", value).replace(f"${number}", value)
    return f"EXPLAIN {query}"


async def insert_jobs(connection: Any, count: int) -> None:
    """Insert jobs with one run each; one in a hundred failed, one in ten was paid."""
    await connection.execute(
        f"""
        SET session_replication_role = replica;
        ALTER TABLE scenes SET UNLOGGED;
        ALTER TABLE runs SET UNLOGGED;
        ALTER TABLE jobs SET UNLOGGED;
        INSERT INTO jobs (job_id, run, created_at, updated_at)
            SELECT 'm' || n, 1, now() - n * interval '1 s', now()
            FROM generate_series(1, {count:d}) n;
        INSERT INTO runs (job_id, run, status, scene_count, started_at)
            SELECT job_id, 1, CASE WHEN job_id LIKE '%00' THEN 'failed' ELSE 'completed' END, 1,
                created_at FROM jobs WHERE job_id ~ '^m[0-9]';
        INSERT INTO scenes (job_id, run, scene_index, state, cost_usd)
            SELECT job_id, 1, 0, 'done', 0.01 FROM runs WHERE job_id LIKE 'm%7';
        ANALYZE jobs, runs, scenes;
        """,  # noqa: S608 - formatted as an integer
        timeout=180,
    )


async def wait_for_configs(
    admin: AIOKafkaAdminClient, name: str, configs: dict[str, str]
) -> TopicDescription:
    """Return the topic once it has exactly these configs: brokers apply them a moment later."""

    async def describe() -> TopicDescription | None:
        [topic] = (await describe_topics(admin, [name], keys=tuple(configs))).values()
        return topic if topic.configs == configs else None

    return await eventually(describe, within_s=30, what=f"{name} has {configs}")


async def test_topics_creates_and_raises_and_changes_nothing_else(
    fixture: OperatorFixture,
) -> None:
    """The dry run changes nothing; `--apply` is audited; moving keys is refused."""
    prefix = fixture.kafka.topic_prefix + "other-"
    other = replace(fixture, environment={**fixture.environment, "SEGUE_TOPIC_PREFIX": prefix})
    planned = await other.segue("topics")
    no_reason = await other.segue("topics", "--apply")
    applied = await other.segue("topics", "--apply", "--reason", "a new cluster")
    again = await other.segue("topics")

    settings = fixture.kafka.model_copy(update={"topic_prefix": prefix})
    name = f"{prefix}video.muxed"
    lowered = {"retention.ms": "60000", "segment.bytes": "1048576"}
    await set_topic_configs(settings, {name: lowered})
    async with admin_client(settings) as admin:
        await wait_for_configs(admin, name, lowered)
    with_8_partitions = replace(other, environment={**other.environment, "SEGUE_PARTITIONS": "8"})
    raised = await with_8_partitions.segue("topics", "--apply", "--reason", "eight generators")
    async with admin_client(settings) as admin:
        expected = {"retention.ms": "1209600000", "segment.bytes": "1048576"}
        topic = await wait_for_configs(admin, name, expected)
    audit = await fixture.api.rows("SELECT command, reason, state FROM operator_actions")

    assert (planned[0], len(planned[1]["differences"]), planned[1]["applied"]) == (1, 19, False)
    assert (no_reason[0], "--reason" in no_reason[1]["error"]) == (2, True)
    assert (applied[0], len(applied[1]["made"])) == (0, 19)
    assert (again[0], again[1]["differences"]) == (0, [])
    assert raised[0] == 1
    refused = {row["what"] for row in raised[1]["differences"] if row["verdict"] == "refuse"}
    assert refused == {"partitions"}
    assert raised[1]["set"] == {name: {"retention.ms": "1209600000"}}
    assert topic.partitions == 4
    assert [row["reason"] for row in audit] == ["a new cluster", "eight generators"]
    assert {row["state"] for row in audit} == {"done"}


async def test_doctor_checks_the_servers_of_the_environment(fixture: OperatorFixture) -> None:
    """All of them answer; then each is unavailable, with advice."""
    healthy = await fixture.segue("doctor")
    unavailable = {
        "KAFKA_BOOTSTRAP_SERVERS": NOWHERE,
        "DATABASE_URL": f"postgresql://segue@{NOWHERE}/none",
        "SEGUE_STORE_DIR": "/proc/nowhere",
        "PUBLIC_BASE_URL": "http://127.0.0.1:4000",
    }
    broken = await replace(fixture, environment={**fixture.environment, **unavailable}).segue(
        "doctor"
    )

    ok_checks = {check["name"]: check for check in healthy[1]["checks"]}
    failed_checks = {check["name"]: check for check in broken[1]["checks"]}
    for name in ("Kafka", "topics", "PostgreSQL", "tables", "clocks", "store", "key"):
        assert ok_checks[name]["state"] == "ok", ok_checks[name]
    assert healthy[0] == 0
    assert broken[0] == 1
    for name in ("Kafka", "PostgreSQL", "store"):
        assert (failed_checks[name]["state"], bool(failed_checks[name]["advice"])) == (
            "missing",
            True,
        )
    assert failed_checks["PUBLIC_BASE_URL"]["state"] == "optional"
