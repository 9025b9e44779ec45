"""Fixtures of every test: a clean environment and the servers of the run.

`tests/support/servers.py` chooses the servers. Helpers are in `tests/support`: nothing imports a
conftest.
"""

import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest
import structlog

from embedded.toolchain.cache import NativeStoreName
from shared.settings import StoreSettings
from tests.support import external_tools, servers
from tests.support.fork_server import stop_fork_server
from tests.support.pipeline_fixture import OpenPipeline, running_pipeline
from tests.support.servers import (
    S3_NAME,
    Database,
    KafkaServer,
    NoServerError,
    PostgresServer,
    Servers,
    fresh_databases,
    s3_names,
)

_PARTS = ("kafka", "postgres", "minio", "versitygw")
_TOOLS = ("promtool", "npm")
_SETTINGS = (
    "SEGUE_",
    "MINIO_",
    "KAFKA_",
    "REPLICATE_",
    "AUDIO_",
    "DATABASE_URL",
    "PUBLIC_BASE_URL",
)
#: `COLUMNS`: readline, which pytest loads, sets it for child processes
_MORE_SETTINGS = ("AUTO_GENERATE_AUDIO", "MUSIC_PROVIDER", "OTEL_", "COLUMNS")
_EXIT_CODE = pytest.ExitCode.USAGE_ERROR
T = TypeVar("T")
OpenS3 = Callable[[NativeStoreName], StoreSettings]

# A shell's background jobs ignore SIGINT; the programs that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# CI repeats the same examples; new ones are found locally, where they can be examined.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):  # noqa: TID251 - not a setting of Segue
    hypothesis.settings.load_profile("ci")

_servers_key = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    """Reject unknown names in SEGUE_REQUIRE; remove settings from the environment."""
    if unknown := servers.REQUIRED - {*_PARTS, *_TOOLS}:
        raise pytest.UsageError(f"SEGUE_REQUIRE knows {_PARTS + _TOOLS}, not {sorted(unknown)}")
    config.stash[_servers_key] = Servers()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", default=None):
        _forget_settings()  # a controller of workers passes them on


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the servers of the collected tests, outside the timeout of any test."""
    if session.config.option.collectonly:
        return
    chosen = session.config.stash[_servers_key]
    worker = hasattr(session.config, "workerinput")  # cannot end the run: its tests fail
    for part in ("kafka", "postgres", "minio"):  # fixtures
        if any(part in _fixtures_of(item) for item in session.items):
            name = S3_NAME if part == "minio" else part
            server = chosen.s3(S3_NAME) if part == "minio" else getattr(chosen, part)()
            if isinstance(server, NoServerError) and name in servers.REQUIRED and not worker:
                pytest.exit(_required(name, server), _EXIT_CODE)
    for tool in sorted(servers.REQUIRED.intersection(_TOOLS)):
        if any(tool in _fixtures_of(item) for item in session.items) and not worker:
            path = getattr(external_tools, tool)()
            if isinstance(path, NoServerError):
                pytest.exit(_required(tool, path), _EXIT_CODE)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Report the servers of the run."""
    if lines := config.stash[_servers_key].lines:
        terminalreporter.section("servers")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers."""
    stop_fork_server()
    if (chosen := config.stash.get(_servers_key, None)) is not None:
        chosen.stop()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the report of a worker's servers to the controller."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = session.config.stash[_servers_key].lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the report of a worker that has ended (pytest-xdist)."""
    lines = node.config.stash[_servers_key].lines
    used = getattr(node, "workeroutput", {}).get("servers", ())
    lines += [line for line in used if line not in lines]


@pytest.fixture(autouse=True)
def log_configuration() -> Iterator[None]:
    """Restore the log's configuration: a command that runs in this process sets its own."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> KafkaServer:
    """The broker of this run; `environment()` has the variables of services that use it."""
    return _or_skip("kafka", pytestconfig.stash[_servers_key].kafka())


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> PostgresServer:
    """The database server of this run; tests that write use `postgres`."""
    return _or_skip("postgres", pytestconfig.stash[_servers_key].postgres())


@pytest.fixture
async def postgres(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A function that creates an empty database and returns its URL; dropped after the test."""
    async with fresh_databases(postgres_server) as database:
        yield database


@pytest.fixture(scope="session")
def minio(pytestconfig: pytest.Config) -> StoreSettings:
    """Settings of the run's S3 server, MinIO unless `SEGUE_NATIVE_STORE` names another.

    Its bucket is the run's, and not created yet.
    """
    return _or_skip(S3_NAME, pytestconfig.stash[_servers_key].s3(S3_NAME)).settings


@pytest.fixture(scope="session")
def s3_server(pytestconfig: pytest.Config) -> OpenS3:
    """A function that returns the settings of the S3 server of this name."""
    chosen = pytestconfig.stash[_servers_key]
    return lambda name: _or_skip(name, chosen.s3(name)).settings


@pytest.fixture(params=s3_names())
def each_s3(request: pytest.FixtureRequest, s3_server: OpenS3) -> StoreSettings:
    """Settings of each S3 server that is available, in turn."""
    return s3_server(request.param)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Path of Prometheus' checker of rules and metrics."""
    return _or_skip("promtool", external_tools.promtool())


@pytest.fixture(scope="session")
def npm() -> Path:
    """Path of npm, which installs Grafana's types."""
    return _or_skip("npm", external_tools.npm())


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    """Path of the folder of a folder store."""
    return tmp_path / "store"


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix of topics and groups that no other test uses; its topics are deleted at the end."""
    prefix = f"t{secrets.token_hex(4)}-"
    yield prefix
    if "kafka" in request.fixturenames:
        broker = request.config.stash[_servers_key].kafka()
        if isinstance(broker, KafkaServer):
            broker.delete_topics(prefix)


@pytest.fixture
def open_pipeline(
    kafka: KafkaServer, postgres: Database, topic_prefix: str, tmp_path: Path
) -> OpenPipeline:
    """Start the four services on the servers of this run; keywords are their settings."""
    return partial(running_pipeline, kafka, postgres, topic_prefix, tmp_path)


def _fixtures_of(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test requests in its signature or as a parameter value."""
    names = set(getattr(item, "fixturenames", ()))
    if (callspec := getattr(item, "callspec", None)) is not None:
        names |= {value for value in callspec.params.values() if isinstance(value, str)}
    return names


def _required(part: str, server: NoServerError) -> str:
    return f"SEGUE_REQUIRE names {part}, but there is {server}"


def _or_skip(part: str, server: T | NoServerError) -> T:
    if isinstance(server, NoServerError):
        if part in servers.REQUIRED:
            pytest.fail(_required(part, server), pytrace=False)
        why = str(server) if part in _TOOLS else f"{server.what}; the summary has the reason"
        pytest.skip(why)
    return server


def _forget_settings() -> None:
    """Remove settings: a test uses the defaults or its own. `servers` has read them already."""
    environment = os.environ  # noqa: TID251 - of the test process
    os.unsetenv("COLUMNS")  # readline sets it behind `os.environ`
    for name in [name for name in environment if name.startswith(_SETTINGS + _MORE_SETTINGS)]:
        if not name.startswith("SEGUE_CHAOS"):  # tests/faults reads these, and no service does
            del environment[name]
