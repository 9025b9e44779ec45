"""Fixtures for every test: a clean environment, and the servers this run uses.

The servers are chosen in `tests/support/servers.py`. No helpers live here: nothing
imports a conftest.
"""

import os
import secrets
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from shared.settings import StoreSettings
from tests.support import external_tools, servers
from tests.support.fork_server import stop_fork_server
from tests.support.pipeline_fixture import OpenPipeline, running_pipeline
from tests.support.servers import (
    Database,
    KafkaServer,
    NoServerError,
    PostgresServer,
    Servers,
    fresh_databases,
)

_PARTS = ("kafka", "postgres", "minio")
_TOOLS = ("promtool", "npm")
_OURS = ("SEGUE_", "MINIO_", "KAFKA_", "REPLICATE_", "AUDIO_", "DATABASE_URL", "PUBLIC_BASE_URL")
_OURS_TOO = ("AUTO_GENERATE_AUDIO", "MUSIC_PROVIDER", "OTEL_")
_REFUSED = pytest.ExitCode.USAGE_ERROR
T = TypeVar("T")

# A shell's background jobs ignore Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What CI tries is what it tried before: a new example is found at a desk, where it can be read.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):  # noqa: TID251 - not a setting of ours
    hypothesis.settings.load_profile("ci")

_servers_key = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a requirement that means nothing, and forget what services would read."""
    if unknown := servers.REQUIRED - {*_PARTS, *_TOOLS}:
        raise pytest.UsageError(f"SEGUE_REQUIRE knows {_PARTS + _TOOLS}, not {sorted(unknown)}")
    config.stash[_servers_key] = Servers()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        _forget_settings()  # whoever only starts workers hands them on


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests name, here, where no single test's time is spent on it."""
    if session.config.option.collectonly:
        return
    chosen = session.config.stash[_servers_key]
    worker = hasattr(session.config, "workerinput")  # who cannot end the others: its tests fail
    for part in _PARTS:
        if any(part in _asked_for(item) for item in session.items):
            server = getattr(chosen, part)()
            if isinstance(server, NoServerError) and part in servers.REQUIRED and not worker:
                pytest.exit(_required(part, server), _REFUSED)
    for tool in sorted(servers.REQUIRED.intersection(_TOOLS)):
        if any(tool in _asked_for(item) for item in session.items) and not worker:
            found = getattr(external_tools, tool)()
            if isinstance(found, NoServerError):
                pytest.exit(_required(tool, found), _REFUSED)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which servers were used."""
    if lines := config.stash[_servers_key].lines:
        terminalreporter.section("servers")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, however the run ended."""
    stop_fork_server()
    if (chosen := config.stash.get(_servers_key, None)) is not None:
        chosen.stop()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker has no terminal: it hands what it used to whoever has one."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = session.config.stash[_servers_key].lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended (pytest-xdist)."""
    lines = node.config.stash[_servers_key].lines
    used = getattr(node, "workeroutput", {}).get("servers", ())
    lines += [line for line in used if line not in lines]


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> KafkaServer:
    """The broker of this run; `environment()` is what services must be told to use it."""
    return _had("kafka", pytestconfig.stash[_servers_key].kafka())


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """The database server of this run; tests that write ask for `postgres`."""
    return _had("postgres", pytestconfig.stash[_servers_key].postgres())


@pytest.fixture
async def postgres(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """Makes empty databases: each call returns the URL of one. They go after the test."""
    async with fresh_databases(postgres_server) as database:
        yield database


@pytest.fixture(scope="session")
def minio(pytestconfig: pytest.Config) -> StoreSettings:
    """Settings of a real S3 server, with a bucket that no other run uses and nobody made yet."""
    return _had("minio", pytestconfig.stash[_servers_key].minio()).settings


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' checker."""
    return _had("promtool", external_tools.promtool())


@pytest.fixture(scope="session")
def npm() -> Path:
    """What fetches Grafana's types."""
    return _had("npm", external_tools.npm())


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    """An empty folder for a folder store."""
    return tmp_path / "store"


@pytest.fixture
def topic_prefix() -> str:
    """Put before topics and groups, so that no test reads what another wrote."""
    return f"t{secrets.token_hex(4)}-"


@pytest.fixture
def open_pipeline(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> OpenPipeline:
    """Start the four services on the servers of this run; keywords are their settings."""
    return partial(running_pipeline, kafka, postgres, topic_prefix, tmp_path)


def _asked_for(item: pytest.Item) -> set[str]:
    """The fixtures a test names, in its signature or as the value of a parameter."""
    asked = set(getattr(item, "fixturenames", ()))
    if (callspec := getattr(item, "callspec", None)) is not None:
        asked |= {one for one in callspec.params.values() if isinstance(one, str)}
    return asked


def _required(part: str, server: NoServerError) -> str:
    return f"SEGUE_REQUIRE names {part}, but there is {server}"


def _had(part: str, server: T | NoServerError) -> T:
    if isinstance(server, NoServerError):
        if part in servers.REQUIRED:
            pytest.fail(_required(part, server), pytrace=False)
        why = str(server) if part in _TOOLS else f"{server.what}; the end of the output says why"
        pytest.skip(why)
    return server


def _forget_settings() -> None:
    """The servers have read it; from here on, a test's settings are the defaults or its own."""
    environment = os.environ  # noqa: TID251 - the tests' own process
    for name in [name for name in environment if name.startswith(_OURS + _OURS_TOO)]:
        if not name.startswith("SEGUE_CHAOS"):  # tests/faults reads these, and no service does
            del environment[name]
