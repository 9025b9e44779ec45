"""Servers: what a stack works with, in three ways; one supervisor starts, watches and stops them.

| kind       | Kafka                   | PostgreSQL     | objects  | what it is for                |
|------------|-------------------------|----------------|----------|-------------------------------|
| `embedded` | a broker in the process | from its wheel | a folder | a laptop with Python alone    |
| `native`   | Apache Kafka, its jars  | from its wheel | MinIO    | the real servers, no Docker   |
| `external` | yours                   | yours          | yours    | servers that run already      |

The native ones are also the tests' (`tests/support/servers.py`). What one kind keeps lies apart
from another's, so each may have the same data folder in turn.

I/O: processes, files, ports of 127.0.0.1. Calls block; from a loop use `asyncio.to_thread`.
"""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

from embedded.servers.broker import PARTITIONS, EmbeddedBroker
from embedded.servers.kafka import NativeKafka
from embedded.servers.minio import NativeMinio
from embedded.servers.postgres import EmbeddedPostgres
from embedded.servers.process import Server
from embedded.settings import StackKind
from embedded.toolchain.cache import ToolSettings
from shared.settings import UNSECURED, KafkaSettings, StoreSettings

T = TypeVar("T")
_EPOCH_BYTES = 8
#: one machine, where a process that says nothing is dead: a restart does not wait for it long
_QUICK = {"session_timeout_s": 6.0, "heartbeat_s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the servers are, in the words of the services' settings."""

    kafka: KafkaSettings
    store: StoreSettings
    database: str | None  #: URL; None: the environment says it

    def environment(self) -> dict[str, str]:
        """The same as variables, for commands beside the stack; of what we started ourselves."""
        if self.database is None:
            return {}
        told = {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "SEGUE_KAFKA_EPOCH": self.kafka.epoch,
            "DATABASE_URL": self.database,
        }
        if self.store.folder is not None:
            return told | {"SEGUE_STORE_DIR": str(self.store.folder)}
        return told | {
            "MINIO_ENDPOINT": self.store.endpoint,
            "MINIO_ACCESS_KEY": self.store.access_key.get_secret_value(),
            "MINIO_SECRET_KEY": self.store.secret_key.get_secret_value(),
            "MINIO_BUCKET": self.store.bucket,
        }


class StackServers(Protocol):
    """The servers of one stack."""

    def start(self) -> Addresses:
        """Start them; returns when all answer.

        Raises:
            ServerStartError: which did not, and why; the others are stopped.
        """
        ...

    def ended(self) -> Server | None:
        """One that should run and does not."""
        ...

    def stop(self) -> None:
        """End them, the last one first; nothing happens to what does not run."""
        ...


def servers_of(kind: StackKind, folder: Path) -> StackServers:
    """The servers of a stack of this kind on `folder`."""
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
    """A broker that forgets, PostgreSQL that does not, and a folder."""

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._broker = EmbeddedBroker()
        self._postgres = EmbeddedPostgres(folder / "postgres")

    def start(self) -> Addresses:
        """Start the broker and PostgreSQL."""
        broker = self._broker.start()
        return Addresses(
            kafka=KafkaSettings.from_environment(
                bootstrap_servers=broker,
                **UNSECURED,
                create_topics=False,  # the broker makes them on first use, and cannot be asked to
                partitions=PARTITIONS,
                fetch_max_wait_ms=20,  # it does not wake a fetch that waits
                **_QUICK,
                epoch=secrets.token_hex(_EPOCH_BYTES),  # a new broker knows nothing of yesterday
            ),
            store=StoreSettings.from_environment(folder=self._objects),
            database=self._postgres.start(),
        )

    def ended(self) -> Server | None:
        """PostgreSQL, if it is gone: the broker cannot go alone."""
        return self._postgres.server if not self._postgres.server.is_running else None

    def stop(self) -> None:
        """PostgreSQL writes everything down; the broker forgets."""
        self._postgres.stop()
        self._broker.stop()


class NativeServers:
    """The real servers below one folder, each started when it is asked for.

    `durable=False` is for data that nobody keeps.
    """

    def __init__(self, folder: Path, tools: ToolSettings, *, durable: bool = True) -> None:
        self._kafka = NativeKafka(folder / "kafka", tools)
        self._postgres = EmbeddedPostgres(folder / "postgres", durable=durable)
        self._minio = NativeMinio(folder / "minio", tools)
        self._started: list[Server] = []
        self._stops = ExitStack()

    def kafka(self) -> str:
        """Start Kafka; its bootstrap address.

        Raises:
            ServerStartError: it did not.
        """
        return self._start(self._kafka.start, self._kafka.stop, self._kafka.server)

    def postgres(self) -> str:
        """Start PostgreSQL; the URL of its database.

        Raises:
            ServerStartError: it did not.
        """
        return self._start(self._postgres.start, self._postgres.stop, self._postgres.server)

    def minio(self) -> StoreSettings:
        """Start MinIO; how to reach it. The first time it may have to be built, for minutes.

        Raises:
            ServerStartError: it did not.
        """
        return self._start(self._minio.start, self._minio.stop, self._minio.server)

    def start(self) -> Addresses:
        """Start all three, side by side."""
        with ThreadPoolExecutor(max_workers=3) as pool:
            kafka, postgres = pool.submit(self.kafka), pool.submit(self.postgres)
            minio = pool.submit(self.minio)
        try:  # each has ended: the pool waited
            return Addresses(
                kafka=KafkaSettings.from_environment(
                    bootstrap_servers=kafka.result(),
                    **_QUICK,
                    **UNSECURED,
                    epoch=self._kafka.cluster_id(),  # who empties the folder begins a new log
                ),
                store=minio.result(),
                database=postgres.result(),
            )
        except BaseException:
            self.stop()
            raise

    def ended(self) -> Server | None:
        """One that should run and does not."""
        return next((server for server in self._started if not server.is_running), None)

    def stop(self) -> None:
        """End what was started."""
        self._started.clear()
        self._stops.close()

    def _start(self, start: Callable[[], T], stop: Callable[[], None], server: Server) -> T:
        self._stops.callback(stop)
        told = start()
        self._started.append(server)
        return told


class ExternalServers:
    """Those that the environment names; whoever runs them starts and stops them."""

    def start(self) -> Addresses:
        """Nothing is started; the services wait for what does not answer yet."""
        return Addresses(
            kafka=KafkaSettings.from_environment(),
            store=StoreSettings.from_environment(),
            database=None,
        )

    def ended(self) -> Server | None:
        """None is ours to watch."""
        return None

    def stop(self) -> None:
        """Nothing."""
