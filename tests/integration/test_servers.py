"""The servers that tests rely on: broker, database, and their process supervision."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from embedded.servers.broker import EmbeddedBroker
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import Server
from shared.errors import ServerStartError
from shared.http.server import free_ports
from shared.storage import StandInWarning
from tests.support.servers import Database, KafkaServer

pytestmark = pytest.mark.integration
RECORDS = 20
SLEEP = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


async def round_trip(bootstrap: str, topic: str) -> list[bytes]:
    """Send records under one key; return what a new group receives."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        for number in range(RECORDS):
            await producer.send_and_wait(topic, str(number).encode(), key=b"job-1")
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"{topic}-group",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
    ) as consumer:
        return [(await consumer.getone()).value for _ in range(RECORDS)]


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """Yield an embedded broker that is not started."""
    with pytest.warns(StandInWarning, match="in memory only"):
        broker = EmbeddedBroker()
    yield broker
    broker.stop()


async def test_the_brokers_records_of_one_key_are_in_order(
    kafka: KafkaServer, topic_prefix: str
) -> None:
    """Whichever broker was chosen for the run."""
    topic = f"{topic_prefix}round-trip"
    if kafka.real:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])
        finally:
            await admin.close()

    received = await round_trip(kafka.bootstrap, topic)

    assert received == [str(number).encode() for number in range(RECORDS)]


async def test_the_embedded_broker_keeps_the_order_of_a_key(broker: EmbeddedBroker) -> None:
    """Also in a topic that was not created."""
    received = await round_trip(broker.start(), "round-trip")

    assert received == [str(number).encode() for number in range(RECORDS)]


async def test_a_restarted_embedded_broker_has_no_records(
    broker: EmbeddedBroker,
) -> None:
    """The services must publish unfinished work again."""
    first = broker.start()
    async with AIOKafkaProducer(bootstrap_servers=first) as producer:
        await producer.send_and_wait("topic", b"yesterday")
    broker.stop()

    second = broker.start()
    async with AIOKafkaProducer(bootstrap_servers=second) as producer:
        sent = [await producer.send_and_wait("topic", b"today", partition=0)]

    assert sent[0].offset == 0


async def test_the_database_is_postgresql_18_or_newer(postgres: Database) -> None:
    """Version 18 is the oldest supported one."""
    connection = await asyncpg.connect(await postgres())
    try:
        assert connection.get_server_version().major >= 18
    finally:
        await connection.close()


async def test_every_database_is_new(postgres: Database) -> None:
    """A table of one database does not exist in the next; both exist at the same time."""
    first = await asyncpg.connect(await postgres())
    second = await asyncpg.connect(await postgres())
    try:
        await first.execute("CREATE TABLE only_here (x int)")

        assert await first.fetchval("SELECT to_regclass('only_here')") is not None
        assert await second.fetchval("SELECT to_regclass('only_here')") is None
    finally:
        await first.close()
        await second.close()


async def test_a_restarted_embedded_database_has_its_rows(tmp_path: Path) -> None:
    """It keeps its folder; this folder's path is too long for a Unix socket."""
    folder = tmp_path / ("long" * 25)
    for expected in (1, 2):
        server = EmbeddedPostgres(folder)
        url = server.start()
        try:
            connection = await asyncpg.connect(url)
            await connection.execute("CREATE TABLE IF NOT EXISTS days (day int)")
            await connection.execute("INSERT INTO days VALUES (1)")
            assert await connection.fetchval("SELECT count(*) FROM days") == expected
            await connection.close()
        finally:
            server.stop()

    assert not list(folder.glob("cluster/postmaster.pid"))


def test_only_the_owner_can_reach_the_database(tmp_path: Path) -> None:
    """A connection over the socket needs no password, so other users must not reach the socket."""
    server = EmbeddedPostgres(tmp_path / "database", durable=False)
    url = server.start()
    try:
        (socket_folder,) = parse_qs(urlsplit(url).query)["host"]
        for folder in (Path(socket_folder), tmp_path / "database" / "cluster"):
            assert folder.stat().st_mode & 0o077 == 0
    finally:
        server.stop()


def test_a_second_server_on_the_same_folder_is_rejected(tmp_path: Path) -> None:
    """The first one keeps running."""
    first, second = EmbeddedPostgres(tmp_path / "db"), EmbeddedPostgres(tmp_path / "db")
    first.start()
    try:
        with pytest.raises(ServerStartError, match="already runs on"):
            second.start()
        assert first.server.is_running
    finally:
        first.stop()


def test_a_server_that_exits_at_its_start_is_reported_with_its_log(tmp_path: Path) -> None:
    """The error has the exit code and the end of the log."""
    server = Server("the sample", log=tmp_path / "log")

    with pytest.raises(ServerStartError, match=r"the sample .*exit code 7(.|\n)*out of luck"):
        server.start(
            [sys.executable, "-c", "import sys; print('out of luck'); sys.exit(7)"],
            answers=lambda: False,
            ready_s=20.0,
        )


def test_a_server_without_an_answer_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    """The start fails, and the process has ended."""
    server = Server("the sample", log=tmp_path / "log", stop_s=0.1)

    with pytest.raises(ServerStartError, match=r"no answer within 0\.3 s"):
        server.start([sys.executable, "-c", SLEEP], answers=lambda: False, ready_s=0.3)

    assert not server.is_running


def test_a_server_does_not_outlive_a_killed_starter(tmp_path: Path) -> None:
    """The watchdog stops it although SIGKILL gives the starter no chance to; its port is free."""
    (port,) = free_ports(1)
    listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up')"
    starter = (
        "import sys, time; from pathlib import Path; from embedded.servers.process import Server;"
        f"log = Path({str(tmp_path / 'log')!r}); server = Server('it', log=log, stop_s=0.2);"
        f"listen = {listen + '; time.sleep(600)'!r};"
        "server.start([sys.executable, '-u', '-c', listen], ready_s=20,"
        " answers=lambda: b'up' in log.read_bytes());"
        "print('started', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            process.send_signal(signal.SIGKILL)

            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b"", "the end of the stream is the server's end"
