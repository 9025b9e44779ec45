"""Fetches and builds the native servers that a test run needs, before pytest starts.

`make test` runs it first, so that no test, and no collection, waits for a download or for the
build of an S3 server, and a person sees what takes the time. Servers given by address or run by
Docker need nothing from here.

I/O: processes, the tool cache, the package registries the first time.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from embedded.servers.kafka import VERSION, NativeKafka
from embedded.servers.object_store import STORES
from shared.errors import ServerStartError
from tests.support import containers
from tests.support.servers import GIVEN, REQUIRED, S3_NAME, TOOLS

_PROGRESS_S = 15.0


def main() -> None:
    """Fetch what is missing; report each step, its progress and its time."""
    if containers.why_not() is None:
        return
    kafka_address = GIVEN.get("KAFKA_BOOTSTRAP_SERVERS")
    native_kafka = not kafka_address and NativeKafka.available(TOOLS) is None
    if native_kafka and not NativeKafka.is_fetched(TOOLS):
        _step(f"fetch Apache Kafka {VERSION}", lambda: NativeKafka.fetch(TOOLS))
    for name, store in STORES.items():
        is_given = "MINIO_ENDPOINT" in GIVEN and name == S3_NAME
        if name in REQUIRED and not is_given and not store.is_built(TOOLS):
            what = f"build {store.label} {store.release} ({store.build_time})"
            _step(what, partial(store.build, TOOLS))


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
