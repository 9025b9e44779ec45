"""Start the test servers as pinned Docker containers.

Each function starts a server, waits until it answers and registers its stop on `stack`.

I/O: the Docker engine, which may pull the image first.
"""

import asyncio
import gc
import secrets
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

import asyncpg
import docker  # type: ignore[import-untyped]
from docker.errors import DockerException  # type: ignore[import-untyped]
from pydantic import SecretStr
from testcontainers.core.container import DockerContainer

from embedded.servers import kafka
from embedded.servers.object_store import NativeMinio
from embedded.servers.process import POLL_S
from shared.errors import ServerStartError
from shared.http.server import free_ports
from shared.settings import StoreSettings

KAFKA_IMAGE = (
    "apache/kafka:4.3.1@sha256:77e3df9054047a88b520d0cc46e16696d3b22022e1d580aeccd2632df6532837"
)
POSTGRES_IMAGE = (
    "postgres:18.4@sha256:3a82e1f56c8f0f5616a11103ac3d47e632c3938698946a7ad26da0df1334744a"
)
MINIO_IMAGE = (  # the last one published
    "quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z"
    "@sha256:14cea493d9a34af32f524e538b8346cf79f3321eff8e708c1e2960462bd8936e"
)
_ENGINE_S = 2
_READY_S = 60.0


@cache
def why_not() -> str | None:
    """Return None if a Docker engine answers, else the reason."""
    with warnings.catch_warnings():
        # docker leaves the socket of a refused connection to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        answered = _engine_answers()
        gc.collect()
    return None if answered else "no Docker engine answers"


def start_kafka(stack: ExitStack) -> str:
    """Start a broker; return its bootstrap address. The container uses the host's port."""
    (port,) = free_ports(1)
    container = (
        DockerContainer(KAFKA_IMAGE)
        .with_bind_ports(port, port)
        .with_envs(
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_LISTENERS=f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:9093",
            KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://127.0.0.1:{port}",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
        )
    )
    address = f"127.0.0.1:{port}"
    _start(container, stack, lambda: kafka.is_broker(address))
    return address


def start_postgres(stack: ExitStack) -> str:
    """Start a server; return the URL of its database `postgres`."""
    (port,) = free_ports(1)
    password = secrets.token_hex(8)
    container = DockerContainer(POSTGRES_IMAGE).with_bind_ports(5432, port)
    container.with_env("POSTGRES_PASSWORD", password)
    url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"

    async def connect() -> None:
        await (await asyncpg.connect(url, timeout=_ENGINE_S)).close()

    def answers() -> bool:
        try:
            asyncio.run(connect())
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        return True

    _start(container, stack, answers)
    return url


def start_minio(stack: ExitStack) -> StoreSettings:
    """Start a server with its own keys; return the settings of a client."""
    (port,) = free_ports(1)
    user, password = "segue-docker", secrets.token_hex(16)
    container = DockerContainer(MINIO_IMAGE).with_bind_ports(9000, port)
    container.with_envs(MINIO_ROOT_USER=user, MINIO_ROOT_PASSWORD=password)
    container.with_command("server /data")
    url = f"http://127.0.0.1:{port}"
    _start(container, stack, lambda: NativeMinio.is_healthy(url))
    return StoreSettings(
        folder=None, endpoint=url, access_key=SecretStr(user), secret_key=SecretStr(password)
    )


def _engine_answers() -> bool:
    try:
        client = docker.from_env(timeout=_ENGINE_S)
        client.ping()
        client.close()
    except DockerException:
        return False
    return True


def _start(container: DockerContainer, stack: ExitStack, answers: Callable[[], bool]) -> None:
    try:
        container.start()
    except (DockerException, RuntimeError) as error:  # RuntimeError: the family of testcontainers
        raise ServerStartError(f"Docker, {container.image}: {error}") from error
    stack.callback(container.stop)
    end = time.monotonic() + _READY_S
    while not answers():
        if time.monotonic() > end:
            raise ServerStartError(f"{container.image}: no answer within {_READY_S:g} s")
        time.sleep(POLL_S)
