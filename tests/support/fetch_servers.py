"""Fetches and builds the native servers that a test run needs, before pytest starts.

`make test` runs it first, so that no test, and no collection, waits for a download or for the
build of MinIO, and a person sees what takes the time. Servers given by address or run by Docker
need nothing from here.

I/O: processes, the tool cache, the package registries the first time.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from embedded.servers.kafka import VERSION, NativeKafka
from embedded.servers.minio import RELEASE, NativeMinio
from shared.errors import ServerStartError
from tests.support import containers
from tests.support.servers import GIVEN, REQUIRED, TOOLS

_PROGRESS_S = 15.0


def main() -> None:
    """Fetch what is missing; report each step, its progress and its time."""
    if containers.why_not() is None:
        return
    kafka_address = GIVEN.get("KAFKA_BOOTSTRAP_SERVERS")
    native_kafka = not kafka_address and NativeKafka.available(TOOLS) is None
    if native_kafka and not NativeKafka.is_fetched(TOOLS):
        _step(f"fetch Apache Kafka {VERSION}", lambda: NativeKafka.fetch(TOOLS))
    if "MINIO_ENDPOINT" not in GIVEN and "minio" in REQUIRED and not NativeMinio.is_built(TOOLS):
        _step(f"build MinIO {RELEASE} (3 to 5 minutes)", lambda: NativeMinio.build(TOOLS))


def _step(what: str, work: Callable[[], object]) -> None:
    """Run one step; a failure is reported here and again by the tests that need the server."""
    begin, done = time.monotonic(), threading.Event()

    def report() -> None:
        while not done.wait(_PROGRESS_S):
            _print(f"servers: {what}: {time.monotonic() - begin:.0f} s")

    _print(f"servers: {what}")
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        with suppress(ServerStartError):
            work()
            _print(f"servers: {what}: done in {time.monotonic() - begin:.0f} s")
            return
        _print(f"servers: {what}: failed; the tests that need it report why")
    finally:
        done.set()
        reporter.join()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
