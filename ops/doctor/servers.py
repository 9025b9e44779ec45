"""Checks Kafka, PostgreSQL and the store for `segue doctor`.

Their addresses come from the environment, or from the stack that runs on this machine. Kafka does
not report its time, so PostgreSQL's clock represents the servers' clocks.

I/O: Kafka, PostgreSQL, the store, DNS.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from aiokafka.errors import KafkaError

from ops.cli.check import Check
from ops.cli.server_addresses import KAFKA_VARIABLE
from ops.cluster.topic_diff import Verdict
from ops.cluster.topics import EMBEDDED_BROKER, compare_topics
from services.api.operators import Database, DatabaseSettings, migrations
from services.generator.settings import GeneratorSettings
from shared.clock import Clock, SystemClock
from shared.errors import RetryableError, SegueError
from shared.http.address_policy import is_public_address
from shared.kafka.admin import admin_client
from shared.settings import KafkaSettings, StoreSettings, TelemetrySettings
from shared.storage.factory import open_store
from shared.telemetry.log import configure

CHECK_S = 10.0
SKEW_MAX = timedelta(seconds=5)  # S3 allows 15 min; links and lag are exact to the second
_TOPICS_SHOWN = 3


async def check_servers(clock: Clock | None = None) -> list[Check]:
    """Return every check of the servers."""
    configure(TelemetrySettings.from_environment(log_level="error"))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the check reports the error once
    clock = clock or SystemClock()
    kafka = KafkaSettings.from_environment()
    return [
        *[check async for check in _kafka(kafka)],
        *[check async for check in _postgres(DatabaseSettings.from_environment(), clock)],
        await check_store(StoreSettings.from_environment()),
        await _public_base_url(),
    ]


async def _kafka(settings: KafkaSettings) -> AsyncIterator[Check]:
    try:
        async with asyncio.timeout(CHECK_S), admin_client(settings) as admin:
            comparison = await compare_topics(admin, settings)
    except (RetryableError, KafkaError, TimeoutError) as error:
        yield Check(
            name="Kafka",
            ok=False,
            found=_message(error),
            advice=f"start it, or set {KAFKA_VARIABLE} (KAFKA_… for TLS and users)",
        )
        return
    yield Check(name="Kafka", ok=True, found=f"{settings.bootstrap_servers} answers")
    if not comparison.is_supported:
        yield Check(name="topics", ok=True, needed=False, found=EMBEDDED_BROKER.partition(":")[0])
        return
    refused = [row for row in comparison.differences if row.verdict is Verdict.REFUSE]
    changeable = [row for row in comparison.differences if row.verdict is Verdict.DO]
    names = list(dict.fromkeys(row.topic for row in (*refused, *changeable)))
    shown = ", ".join(names[:_TOPICS_SHOWN]) + (" …" if len(names) > _TOPICS_SHOWN else "")
    count = len(comparison.required)
    yield Check(
        name="topics",
        ok=not names,
        needed=bool(refused),  # the services create missing topics at their start
        found=f"{count - len(names)} of {count} as required" + (f"; not {shown}" if names else ""),
        advice='see "segue topics"; with --apply it corrects what it may',
    )


async def _postgres(settings: DatabaseSettings, clock: Clock) -> AsyncIterator[Check]:
    database = Database(settings)
    try:
        async with asyncio.timeout(CHECK_S):
            await database.open()
            async with database.connection() as connection:
                version = await connection.fetchval("SHOW server_version")
                table = await connection.fetchval("SELECT to_regclass('schema_migrations')")
                rows = (
                    await connection.fetch("SELECT number FROM schema_migrations") if table else []
                )
                before = clock.now()
                server_time = await connection.fetchval("SELECT clock_timestamp()")
                after = clock.now()
    except (RetryableError, TimeoutError) as error:
        yield Check(
            name="PostgreSQL",
            ok=False,
            found=_message(error),
            advice="start it, or set DATABASE_URL; check the user and the password",
        )
        return
    finally:
        await database.close()
    yield Check(name="PostgreSQL", ok=True, found=f"{version.split()[0]} answers")
    yield check_tables({row["number"] for row in rows}, {number for number, _ in migrations()})
    yield check_clocks(server_time, before=before, after=after)


def check_tables(applied: set[int], required: set[int]) -> Check:
    """Return whether the database has exactly the migrations of this version."""
    newer, missing = sorted(applied - required), sorted(required - applied)
    if newer:
        found = f"of a newer version ({newer[-1]:04}); this version ends at {max(required):04}"
        advice = "run the commands of the api's version"
    elif missing:
        found = f"{len(missing)} of {len(required)} migrations missing" if applied else "no tables"
        advice = "the api creates them at its start: start the api of this version once"
    else:
        found, advice = f"{len(required)} of {len(required)} migrations applied", ""
    return Check(
        name="tables", ok=not newer and not missing, needed=False, found=found, advice=advice
    )


def check_clocks(server_time: datetime, *, before: datetime, after: datetime) -> Check:
    """Return whether PostgreSQL's time is between `before` and `after`, within the skew."""
    skew = max(before - server_time, server_time - after, timedelta())
    return Check(
        name="clocks",
        ok=skew <= SKEW_MAX,
        needed=False,
        found=f"this machine and PostgreSQL differ by {skew.total_seconds():.1f} s",
        advice="synchronize both machines with a time server (chrony, systemd-timesyncd)",
    )


async def check_store(settings: StoreSettings) -> Check:
    """Return whether the store is writable; the reason names the setting to correct."""
    location = str(settings.folder) if settings.folder else f"{settings.endpoint}/{settings.bucket}"
    advice = 'start it, or set SEGUE_STORE_DIR or MINIO_…; "segue prepare" creates the bucket; '
    advice += "check that this user may write there"
    try:
        store = open_store(settings)
        try:
            async with asyncio.timeout(CHECK_S):
                await store.check()
        finally:
            await store.close()
    except (SegueError, TimeoutError, OSError) as error:
        found = f"{location}: {_message(error)}"
        return Check(name="store", ok=False, found=found, advice=advice)
    return Check(name="store", ok=True, found=f"{location} is writable")


async def _public_base_url() -> Check:
    settings = GeneratorSettings.from_environment()
    url = settings.links.public_base_url
    if not url:
        return Check(
            name="PUBLIC_BASE_URL",
            ok=settings.provider != "replicate",
            needed=False,
            found="not set",
            advice="set the api's public URL: MusicGen then fetches windows from it and reports by "
            "webhook; without it, windows are sent in requests and predictions are polled",
        )
    host = urlsplit(url).hostname or ""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        found, ok = f"{url}: {host} has no address ({error.strerror})", False
    else:
        addresses = sorted({str(info[4][0]) for info in infos})
        ok = all(is_public_address(address) for address in addresses)
        found = f"{url} is {'public' if ok else 'not public'} ({', '.join(addresses)})"
    return Check(
        name="PUBLIC_BASE_URL",
        ok=ok,
        needed=False,
        found=found,
        advice="Replicate cannot reach it: set the api's public URL, or unset it",
    )


def _message(error: Exception) -> str:
    return (str(error) or f"no answer within {CHECK_S:g} s").splitlines()[0]
