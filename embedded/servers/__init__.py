"""The servers of a stack, in three kinds behind one port (`StackServers`).

| kind       | Kafka                   | PostgreSQL     | objects   | use                         |
|------------|-------------------------|----------------|-----------|-----------------------------|
| `embedded` | a broker in the process | from its wheel | a folder  | a laptop with Python alone  |
| `native`   | Apache Kafka, its jars  | from its wheel | S3 server | the real servers, no Docker |
| `external` | yours                   | yours          | yours     | servers that run already    |

The tests use the native servers too (`tests/support/servers.py`). Each kind has its own
subfolders, so all kinds can use the same data folder in turn.

I/O: processes, files, ports of 127.0.0.1. Calls block; from a loop use `asyncio.to_thread`.
"""

import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

from embedded.servers.broker import PARTITIONS, EmbeddedBroker
from embedded.servers.kafka import NativeKafka
from embedded.servers.object_store import native_store
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import Server, with_free_ports
from embedded.settings import StackKind
from embedded.toolchain.cache import ToolSettings
from shared.settings import UNSECURED, KafkaSettings, StoreSettings

T = TypeVar("T")
_EPOCH_BYTES = 8
#: prefixes of the variables with the address of an external server
_EXTERNAL = (
    "KAFKA_",
    "SEGUE_KAFKA_",
    "SEGUE_TOPIC_PREFIX",
    "DATABASE_URL",
    "MINIO_",
    "SEGUE_STORE_",
)
#: on one machine a silent process is dead: a restart should not wait long for its session
_SHORT_SESSION = {"session_timeout_s": 6.0, "heartbeat_s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddresses:
    """The addresses of the servers, as settings of the services."""

    kafka: KafkaSettings
    store: StoreSettings
    database: str | None  #: URL; None: from the environment
    #: of external servers: the variables with their addresses and users
    variables: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return the addresses of the servers, as environment variables for commands."""
        if self.database is None:
            return dict(self.variables)
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "KAFKA_SECURITY_PROTOCOL": self.kafka.security_protocol,
            "SEGUE_KAFKA_EPOCH": self.kafka.epoch,
            "SEGUE_TOPIC_PREFIX": self.kafka.topic_prefix,
            "DATABASE_URL": self.database,
        }
        if self.store.folder is not None:
            return variables | {"SEGUE_STORE_DIR": str(self.store.folder)}
        return variables | {
            "MINIO_ENDPOINT": self.store.endpoint,
            "MINIO_ACCESS_KEY": self.store.access_key.get_secret_value(),
            "MINIO_SECRET_KEY": self.store.secret_key.get_secret_value(),
            "MINIO_BUCKET": self.store.bucket,
            "MINIO_REGION": self.store.region,
        }


class StackServers(Protocol):
    """The servers of one stack."""

    def start(self) -> ServerAddresses:
        """Start the servers; return when all answer.

        Raises:
            ServerStartError: one of them did not start; the others are stopped.
        """
        ...

    def ended_server(self) -> Server | None:
        """Return a server that ended by itself; None if all run."""
        ...

    def stop(self) -> None:
        """Stop the servers in reverse order; idempotent."""
        ...


def servers_of(kind: StackKind, folder: Path) -> StackServers:
    """Return the servers of this kind on `folder`, not started."""
    match kind:
        case "embedded":
            return EmbeddedServers(folder)
        case "native":
            return NativeServers(folder / "native", ToolSettings.from_environment())
        case "external":
            return ExternalServers()
        case _:
            assert_never(kind)


class EmbeddedServers:
    """An in-memory broker, PostgreSQL, and a folder as object store."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._broker = EmbeddedBroker()
        self._postgres = EmbeddedPostgres(folder / "postgres")

    def start(self) -> ServerAddresses:
        """Start the broker and PostgreSQL."""
        broker = self._broker.start()
        return ServerAddresses(
            kafka=KafkaSettings.from_environment(
                bootstrap_servers=broker,
                **UNSECURED,
                create_topics=False,  # the broker does so on first use, and rejects requests
                partitions=PARTITIONS,
                fetch_max_wait_ms=20,  # new records do not wake a waiting fetch
                **_SHORT_SESSION,
                epoch=secrets.token_hex(_EPOCH_BYTES),  # each start is a new, empty log
            ),
            store=StoreSettings.from_environment(folder=self._objects),
            database=self._postgres.start(),
        )

    def ended_server(self) -> Server | None:
        """Return PostgreSQL if it ended; the broker ends only with this process."""
        return self._postgres.server if not self._postgres.server.is_running else None

    def stop(self) -> None:
        """Stop PostgreSQL, then the broker, whose records are lost."""
        self._postgres.stop()
        self._broker.stop()


class NativeServers:
    """The real servers below one folder; each can be started alone.

    `durable=False` disables fsync, for throw-away data.
    """

    def __init__(self, folder: Path, tools: ToolSettings, *, durable: bool = True) -> None:
        self._kafka = NativeKafka(folder / "kafka", tools)
        self._postgres = EmbeddedPostgres(folder / "postgres", durable=durable)
        self._folder = folder
        self._tools = tools
        self._started: list[Server] = []
        self._stops = ExitStack()

    def kafka(self) -> str:
        """Start Kafka; return its bootstrap address.

        Raises:
            ServerStartError: it did not start.
        """
        return self._start(self._kafka.start, self._kafka.stop, self._kafka.server)

    @property
    def kafka_logs(self) -> Path:
        """Return the folder of Kafka's logs, one folder per partition."""
        return self._kafka.data

    def postgres(self) -> str:
        """Start PostgreSQL; return the URL of its database.

        Raises:
            ServerStartError: it did not start.
        """
        return self._start(self._postgres.start, self._postgres.stop, self._postgres.server)

    def store(self) -> StoreSettings:
        """Start the S3 server; return its settings. The first start may build it for minutes.

        Raises:
            ServerStartError: it did not start.
        """
        store = native_store(self._folder, self._tools)
        return self._start(store.start, store.stop, store.server)

    def start(self) -> ServerAddresses:
        """Start all three in parallel."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            kafka, postgres = pool.submit(self.kafka), pool.submit(self.postgres)
            store = pool.submit(self.store)
        try:  # the pool has waited for all three
            return ServerAddresses(
                kafka=KafkaSettings.from_environment(
                    bootstrap_servers=kafka.result(),
                    **_SHORT_SESSION,
                    **UNSECURED,
                    epoch=self._kafka.cluster_id(),  # an emptied folder is a new log
                ),
                store=store.result(),
                database=postgres.result(),
            )
        except BaseException:
            self.stop()
            raise

    def ended_server(self) -> Server | None:
        """Return a server that ended by itself; None if all run."""
        return next((server for server in self._started if not server.is_running), None)

    def stop(self) -> None:
        """Stop the started servers in reverse order."""
        self._started.clear()
        self._stops.close()

    def _start(self, start: Callable[[], T], stop: Callable[[], None], server: Server) -> T:
        self._stops.callback(stop)
        address = with_free_ports(start)
        self._started.append(server)
        return address


class ExternalServers:
    """The servers of the environment; the stack neither starts nor stops them."""

    def start(self) -> ServerAddresses:
        """Return their addresses; the services wait for servers that do not answer yet."""
        return ServerAddresses(
            kafka=KafkaSettings.from_environment(),
            store=StoreSettings.from_environment(),
            database=None,
            variables={
                name: value
                for name, value in os.environ.items()  # noqa: TID251 - for commands elsewhere
                if value and name.startswith(_EXTERNAL)
            },
        )

    def ended_server(self) -> Server | None:
        """Return None: external servers are not watched."""
        return None

    def stop(self) -> None:
        """Do nothing."""
