"""Servers: what `segue doctor` finds of Kafka, PostgreSQL and the store, where they are named.

They are named by the environment, or by the stack that runs on this machine. Of the brokers no
client can ask the time; PostgreSQL's stands for the servers' clocks.

I/O: Kafka, PostgreSQL, the store, DNS.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from aiokafka.errors import KafkaError

from ops.cli.check import Check
from ops.cli.operator import KAFKA_VARIABLE, use_local_stack
from ops.cli.settings import CommandSettings
from ops.cluster.topic_diff import Verdict
from ops.cluster.topics import STAND_IN, compared
from services.api.operators import Database, DatabaseSettings, migrations
from services.generator.settings import GeneratorSettings
from shared.clock import Clock, SystemClock
from shared.errors import RetryableError, SegueError
from shared.http.address_policy import is_public_address
from shared.kafka.admin import admin_client
from shared.settings import KafkaSettings, StoreSettings, TelemetrySettings
from shared.storage.factory import open_store
from shared.telemetry.log import configure

#: each names a server of its own; without any, and without a stack, there is nothing to look at
VARIABLES = (KAFKA_VARIABLE, "DATABASE_URL", "MINIO_ENDPOINT", "SEGUE_STORE_DIR")
LOOK_S = 10.0
SKEW_MAX = timedelta(seconds=5)  # an S3 server takes 15 min; links and lag are read by the second
_NAMED = 3  # topics that a line names


def named(settings: CommandSettings) -> bool:
    """Whether there are servers to look at: the environment names some, or a stack runs here."""
    environment = os.environ  # noqa: TID251 - a command's start: is anything named at all?
    if KAFKA_VARIABLE not in environment and use_local_stack(settings.home.folder):
        return True
    return any(environment.get(name) for name in VARIABLES)


async def on_servers(clock: Clock | None = None) -> list[Check]:
    """Every check of the servers."""
    configure(TelemetrySettings.from_environment(log_level="error"))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the check says it, once
    clock = clock or SystemClock()
    kafka = KafkaSettings.from_environment()
    return [
        *[one async for one in _kafka(kafka)],
        *[one async for one in _postgres(DatabaseSettings.from_environment(), clock)],
        await _store(StoreSettings.from_environment()),
        await _public_address(),
    ]


async def _kafka(settings: KafkaSettings) -> AsyncIterator[Check]:
    place = settings.bootstrap_servers
    try:
        async with asyncio.timeout(LOOK_S), admin_client(settings) as admin:
            found = await compared(admin, settings)
    except (RetryableError, KafkaError, TimeoutError) as error:
        yield Check(
            name="Kafka",
            ok=False,
            found=_words(error),
            advice=f"start it, or let {KAFKA_VARIABLE} name another (KAFKA_… for TLS and users)",
        )
        return
    yield Check(name="Kafka", ok=True, found=f"{place} answers")
    if not found.can_tell:
        yield Check(name="topics", ok=True, needed=False, found=STAND_IN.partition(":")[0])
        return
    refused = [one for one in found.differences if one.verdict is Verdict.REFUSE]
    to_do = [one for one in found.differences if one.verdict is Verdict.DO]
    names = list(dict.fromkeys(one.topic for one in (*refused, *to_do)))
    some = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    yield Check(
        name="topics",
        ok=not names,
        needed=bool(refused),  # what is only missing, the services make at their start
        found=f"{len(found.wanted) - len(names)} of {len(found.wanted)} as they should be"
        + (f"; not {some}" if names else ""),
        advice="`segue topics` says what differs and why; with --apply it makes what it may",
    )


async def _postgres(settings: DatabaseSettings, clock: Clock) -> AsyncIterator[Check]:
    database = Database(settings)
    try:
        async with asyncio.timeout(LOOK_S):
            await database.open()
            async with database.connection() as connection:
                version = await connection.fetchval("SHOW server_version")
                there = await connection.fetchval("SELECT to_regclass('schema_migrations')")
                rows = (
                    await connection.fetch("SELECT number FROM schema_migrations") if there else []
                )
                before = clock.now()
                moment = await connection.fetchval("SELECT clock_timestamp()")
                after = clock.now()
    except (RetryableError, TimeoutError) as error:
        yield Check(
            name="PostgreSQL",
            ok=False,
            found=_words(error),
            advice="start it, or let DATABASE_URL name another; does its user's password fit?",
        )
        return
    finally:
        await database.close()
    yield Check(name="PostgreSQL", ok=True, found=f"{version.split()[0]} answers")
    yield tables({row["number"] for row in rows}, {number for number, _ in migrations()})
    yield clocks(moment, before=before, after=after)


def tables(have: set[int], want: set[int]) -> Check:
    """Whether the tables are those of this version."""
    newer, older = sorted(have - want), sorted(want - have)
    if newer:
        found = f"of a newer version ({newer[-1]:04}): this one knows none beyond {max(want):04}"
        advice = "run the commands of the version that the api has"
    elif older:
        found = f"{len(older)} of {len(want)} migrations are missing" if have else "not there yet"
        advice = "the api makes them at its start: start the one of this version"
    else:
        found, advice = f"{len(want)} migrations, all there", ""
    return Check(
        name="tables", ok=not newer and not older, needed=False, found=found, advice=advice
    )


def clocks(moment: datetime, *, before: datetime, after: datetime) -> Check:
    """Whether PostgreSQL's clock, asked between two looks at ours, says the same."""
    apart = max(before - moment, moment - after, timedelta())
    return Check(
        name="clocks",
        ok=apart <= SKEW_MAX,
        needed=False,
        found=f"ours and PostgreSQL's are {apart.total_seconds():.1f} s apart",
        advice="let both machines follow a time server (chrony, systemd-timesyncd)",
    )


async def _store(settings: StoreSettings) -> Check:
    place = str(settings.folder) if settings.folder else f"{settings.endpoint}/{settings.bucket}"
    advice = "start it, or let SEGUE_STORE_DIR or MINIO_… name another; `segue prepare` makes a "
    advice += "bucket; may this user write there?"
    try:
        store = open_store(settings)
        try:
            async with asyncio.timeout(LOOK_S):
                await store.check()
        finally:
            await store.close()
    except (SegueError, TimeoutError, OSError) as error:
        return Check(name="store", ok=False, found=f"{place}: {_words(error)}", advice=advice)
    return Check(name="store", ok=True, found=f"{place} can be written to")


async def _public_address() -> Check:
    settings = GeneratorSettings.from_environment()
    url = settings.links.public_base_url
    if not url:
        return Check(
            name="PUBLIC_BASE_URL",
            ok=settings.provider != "replicate",
            needed=False,
            found="not set",
            advice="the api's address on the internet: MusicGen then fetches windows from it, and "
            "tells of ends by webhook; without it windows travel inside requests, ends are polled",
        )
    host = urlsplit(url).hostname or ""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        found, public = f"{url}: {host} has no address ({error.strerror})", False
    else:
        addresses = sorted({str(info[4][0]) for info in infos})
        public = all(is_public_address(one) for one in addresses)
        found = f"{url} is {'public' if public else 'not public'} ({', '.join(addresses)})"
    return Check(
        name="PUBLIC_BASE_URL",
        ok=public,
        needed=False,
        found=found,
        advice="Replicate cannot reach it: name the api's address on the internet, or none",
    )


def _words(error: Exception) -> str:
    return (str(error) or f"no answer within {LOOK_S:g} s").splitlines()[0]
