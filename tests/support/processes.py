"""Start services as processes, signal them, and wait for their results."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer

from shared.kafka.codec import Record
from shared.kafka.consumer import record_of
from tests.support.fork_server import ForkedProcess, start_forked

STOP_S = 15.0
T = TypeVar("T")


class Service:
    """One `python -m services.<name>`, forked; its log is the file `log`."""

    forks_sandbox = True  #: False: it starts the server of its sandbox itself

    def __init__(self, name: str, environment: Mapping[str, str], *, log: Path) -> None:
        self.name = name
        self.log = log
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONWARNINGS": "ignore",
            # tests request equal scenes and count the segments of each
            "SEGUE_SCENE_CACHE": "off",
            **environment,
        }
        self._process: ForkedProcess | None = None

    async def start(self) -> None:
        """Start the process; it is not ready yet."""
        module, *arguments = self.command()
        with self.log.open("ab") as log:
            self._process = await start_forked(
                module,
                *arguments,
                environment=self.environment,
                output=log.fileno(),
                forks_sandbox=self.forks_sandbox,
            )

    def command(self) -> Sequence[str]:
        """Return the module to run and its arguments."""
        return (f"services.{self.name}",)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the end; return the exit code, or minus the signal's number."""
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    def count_logged(self, action: str) -> int:
        """Return the number of log records with this action."""
        return sum(
            line.get("action") == action for line in map(_line, self.log.read_text().splitlines())
        )

    async def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        return await self._end(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None, "start() comes first"
        self._process.send_signal(number)

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_S):
                return await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise AssertionError(
                f"{self.name} did not stop:\n{self.log.read_text()[-2000:]}"
            ) from None


@asynccontextmanager
async def services(
    *names: str,
    environment: Mapping[str, str],
    folder: Path,
    of: Mapping[str, Mapping[str, str]] | None = None,
    kind: type[Service] = Service,
) -> AsyncIterator[dict[str, Service]]:
    """Start the named services; kill those that still run at the end.

    `of` has more environment per service; `kind` is the class that starts them.
    """
    started = {
        name: kind(name, {**environment, **(of or {}).get(name, {})}, log=folder / f"{name}.log")
        for name in names
    }
    try:
        for service in started.values():
            await service.start()
        yield started
    finally:
        for service in started.values():
            await service.kill()


async def eventually(poll: Callable[[], Awaitable[T | None]], *, within_s: float, what: str) -> T:
    """Call `poll` until it returns something; return that."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                result = await poll()
                if result is not None:
                    return result
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"timeout after {within_s} s: {what}") from None


async def records_of(bootstrap: str, *topics: str, prefix: str) -> list[Record]:
    """Return every record of these topics, by topic, partition and offset."""
    consumer = AIOKafkaConsumer(
        *(prefix + topic for topic in topics),
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        found: list[Record] = []
        for partition in partitions:
            while await consumer.position(partition) < ends[partition]:
                polled = await consumer.getmany(partition, timeout_ms=500)
                found += [record_of(raw, prefix=prefix) for raw in polled.get(partition, [])]
        return found
    finally:
        await consumer.stop()


def value_of(record: Record) -> dict[str, Any]:
    """Return a record's parsed value."""
    assert record.value is not None, "every event has a value"
    value: dict[str, Any] = json.loads(record.value)
    return value


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
