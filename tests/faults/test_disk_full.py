"""A full disk, of PostgreSQL or of ffmpeg's temporary files, and recovery after space is freed."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest

from embedded.servers.postgres import EmbeddedPostgres, _binary
from embedded.servers.process import run_tool
from shared.contract.topics import DLQ_SUFFIX
from tests.faults.harness.killable_servers import KillablePostgres
from tests.faults.harness.small_disk import SmallDisk, a_small_disk
from tests.faults.harness.worker_harness import (
    MERGER,
    MUXER,
    SMALL_FILM,
    Stage,
    WorkerHarness,
    worker_harness,
)
from tests.support.api_fixture import running_api
from tests.support.api_service import ApiServiceFixture
from tests.support.processes import eventually, services
from tests.support.servers import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DATA_MIB = 192  # an empty cluster has 36, and a log of 16 for each segment of it
SCRATCH_MIB = 8
TRIES = 3
CLIENTS = 3
ACCEPTED = 5  # accepted jobs before the disk is full, and after
REJECTED = 20
WAIT_S = 120.0
SCENE = {"description": "a calm lake", "duration_s": 1.7}


class Clients:
    """Clients that request jobs until each is accepted, and poll the first."""

    def __init__(self, api: httpx.AsyncClient) -> None:
        self._api = api
        self.accepted: list[str] = []
        self.answers: Counter[int] = Counter()
        self.polls: Counter[int] = Counter()
        self.stop = asyncio.Event()

    async def run(self, number: int) -> None:
        """Run one client; retries have the same idempotency key."""
        count = 0
        while not self.stop.is_set():
            await self._request(f"{number}-{count}")
            count += 1

    async def more_accepted(self, count: int) -> None:
        """Wait for `count` more."""
        wanted = len(self.accepted) + count

        async def poll() -> bool | None:
            return len(self.accepted) >= wanted or None

        await eventually(poll, within_s=WAIT_S, what=f"{wanted} accepted requests")

    async def more_rejected(self, count: int) -> None:
        """Wait for `count` more."""
        wanted = self.answers[503] + count

        async def poll() -> bool | None:
            return self.answers[503] >= wanted or None

        await eventually(poll, within_s=WAIT_S, what=f"{wanted} rejected requests")

    async def _request(self, job_id: str) -> None:
        body = {"job_id": job_id, "scenes": [SCENE]}
        while job_id not in self.accepted and not self.stop.is_set():
            answer = await self._api.post(
                "/api/v3/audio/generate-scenes", json=body, headers={"Idempotency-Key": job_id}
            )
            self.answers[answer.status_code] += 1
            if answer.status_code == 202:
                self.accepted.append(job_id)
            else:
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
            if self.accepted:
                response = await self._api.get(f"/api/v3/audio/status/{self.accepted[0]}")
                self.polls[response.status_code] += 1
            assert (await self._api.get("/livez")).status_code == 200
            await asyncio.sleep(0.05)


@asynccontextmanager
async def others(fixture: ApiServiceFixture, folder: Path) -> AsyncIterator[None]:
    """Start generator and merger as processes."""
    environment = {
        **fixture.kafka.environment(),
        "SEGUE_TOPIC_PREFIX": fixture.prefix,
        "SEGUE_STORE_DIR": str(fixture.folder),
        "SEGUE_SESSION_TIMEOUT_S": "6",
        "SEGUE_HEARTBEAT_S": "1",
        "MUSIC_PROVIDER": "silence",
    }
    folder.mkdir(exist_ok=True)
    ports = {name: {"SEGUE_HEALTH_PORT": "0"} for name in ("generator", "merger")}
    async with services("generator", "merger", environment=environment, folder=folder, of=ports):
        yield


async def _fill_wal(url: str) -> None:
    """Write WAL segments until PostgreSQL ends without space."""
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(url, timeout=10)
        try:
            while True:
                await connection.execute("SELECT pg_logical_emit_message(true, 'x', 'y')")
                await connection.execute("SELECT pg_switch_wal()")
        finally:
            connection.terminate()


async def _has_ended(server: KillablePostgres) -> None:
    async def poll() -> bool | None:
        return not server._server.server.is_running or None

    await eventually(poll, within_s=WAIT_S, what="the end of PostgreSQL")


@pytest.mark.parametrize("what", ["rows", "log"])
async def test_accepted_jobs_complete_after_postgresql_had_no_space(
    kafka: KafkaServer, topic_prefix: str, store_folder: Path, tmp_path: Path, what: str
) -> None:
    """503, never 500; PostgreSQL recovers by itself, or is restarted if it had no space for WAL."""
    if why_not := EmbeddedPostgres.available():
        pytest.skip(f"no PostgreSQL to fill: {why_not}")
    with a_small_disk(DATA_MIB) as disk:
        server = KillablePostgres(disk.folder / "pg")
        fixture = ApiServiceFixture(server.url, kafka, topic_prefix, store_folder)
        try:
            async with others(fixture, tmp_path / "logs"), running_api(fixture.settings()) as api:
                clients = Clients(api)
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        group.create_task(clients.run(number))
                    await clients.more_accepted(ACCEPTED)
                    before = len(clients.accepted)
                    await _fills(disk, server, what)
                    await clients.more_rejected(REJECTED)
                    disk.free_space()
                    if what == "log":  # it ended and needs a restart
                        await server.start()
                    await clients.more_accepted(ACCEPTED)
                    clients.stop.set()
                await _all_done(fixture, len(clients.accepted))
            rows = await fixture.rows("SELECT job_id, run FROM runs")
            server.stop()
            damaged = _damaged(disk.folder / "pg" / "cluster")
        finally:
            server.stop()
    sys.stdout.write(
        f"PostgreSQL without space for its {what}: {before} accepted before, answers "
        f"{dict(clients.answers)}, statuses {dict(clients.polls)}, accepted and completed "
        f"{len(clients.accepted)}, double rows {len(rows) - len(set(clients.accepted))}, "
        f"damaged pages {damaged}\n"
    )
    assert set(clients.answers) == {202, 503}
    assert set(clients.polls) <= {200, 503}
    assert sorted((row["job_id"], row["run"]) for row in rows) == sorted(
        (job, 1) for job in clients.accepted
    )
    assert damaged == 0


async def _fills(disk: SmallDisk, server: KillablePostgres, what: str) -> None:
    """Fill the disk; for the WAL, wait until PostgreSQL has ended."""
    disk.fill()
    if what == "log":
        await _fill_wal(server.url)
        await _has_ended(server)
        server.stop()


async def _all_done(fixture: ApiServiceFixture, jobs: int) -> None:
    async def poll() -> bool | None:
        rows = await fixture.rows("SELECT status FROM runs")
        return [row["status"] for row in rows] == ["completed"] * jobs or None

    await eventually(poll, within_s=WAIT_S, what=f"{jobs} jobs completed")


def _damaged(cluster: Path) -> int:
    """Return the number of pages with a wrong checksum of a stopped server."""
    output = run_tool("pg_checksums", [_binary("pg_checksums"), "-D", cluster], timeout_s=60)
    (line,) = [line for line in output.splitlines() if line.startswith("Bad checksums:")]
    return int(line.split()[-1])


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A large job and a small one."""

    stage: Stage
    large_bytes: int  #: temporary files before ffmpeg writes the large result
    large_s: float
    small_s: float


MERGES = Sizes(
    stage=MERGER, large_bytes=2 * 48_000 * 8, large_s=2.0, small_s=0.5
)  # float32, stereo
MUXES = Sizes(stage=MUXER, large_bytes=700_000, large_s=1.5, small_s=0.5)  # film and track


@pytest.mark.parametrize("sizes", [MERGES, MUXES], ids=lambda sizes: sizes.stage.service)
async def test_one_job_waits_or_fails_while_ffmpeg_has_no_space(
    kafka: KafkaServer, tmp_path: Path, sizes: Sizes
) -> None:
    """A job whose inputs do not fit waits; a job whose ffmpeg runs out of space fails."""
    patient = {"SEGUE_BACKOFF_FIRST_S": "0.2", "SEGUE_BACKOFF_MAX_S": "0.5"}
    patient |= {"SEGUE_ATTEMPTS_MAX": "1000"}
    with a_small_disk(SCRATCH_MIB) as disk:
        scratch = disk.folder / "scratch"
        async with worker_harness(
            kafka, tmp_path / "fixture", sizes.stage, scratch=scratch, **patient
        ) as harness:
            await harness.request("undisturbed", seconds=sizes.large_s)
            undisturbed = (await harness.done("undisturbed")).value["sha256"]

            tries = await _waits(harness, disk, sizes)
            assert (await harness.done("waits")).value["sha256"] == undisturbed
            failure = await _fails(harness, disk, sizes)
            await harness.request("fails", run=2, seconds=sizes.large_s)
            assert (await harness.done("fails", run=2)).value["sha256"] == undisturbed
            await harness.at_rest()
            dead = [
                record for record in harness.results.records if record.topic.endswith(DLQ_SUFFIX)
            ]
    sys.stdout.write(
        f"{sizes.stage.service} without space for temporary files: one job waited for {tries} tries"
        f" and was done, one failed with {failure!r} and was done when requested again,"
        f" 2 of 2 small jobs done meanwhile, results equal 2 of 2, dead letters {len(dead)},"
        " temporary files 0\n"
    )
    assert not dead


async def _waits(harness: WorkerHarness, disk: SmallDisk, sizes: Sizes) -> int:
    """The large job waits while a small one is done; after space is freed it continues."""
    disk.fill(but_bytes=sizes.large_bytes // 2)
    await harness.request("waits", seconds=sizes.large_s)

    async def tried() -> bool | None:
        return harness.service.count_logged("record.retried") >= TRIES or None

    await eventually(tried, within_s=WAIT_S, what="attempts without space")
    await harness.request("small, beside waits", seconds=sizes.small_s, film=SMALL_FILM)
    await harness.done("small, beside waits")
    assert not harness.results.of("waits", 1)
    disk.free_space()
    await harness.done("waits")
    return harness.service.count_logged("record.retried")


async def _fails(harness: WorkerHarness, disk: SmallDisk, sizes: Sizes) -> str:
    """Leave space for the inputs only; return the failure message."""
    disk.fill(but_bytes=sizes.large_bytes + 16_384)
    await harness.request("fails", seconds=sizes.large_s)
    failure = (await harness.failed("fails")).value
    await harness.request("small, after fails", seconds=sizes.small_s, film=SMALL_FILM)
    await harness.done("small, after fails")
    disk.free_space()

    assert "No space left on device" in failure["message"], failure
    assert failure["retryable"]
    return str(failure["message"])
