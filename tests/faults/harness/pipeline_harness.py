"""The whole pipeline for fault tests: six processes and a client.

Three generators, merger, muxer and api share one topic prefix, store and database, and may be
killed. The provider is the fixture's Replicate emulator.

I/O: processes, HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from replicate_server.model.composer import Compose
from shared.contract.events import AudioMerged, SceneRequested, SegmentGenerated, VideoMuxed
from shared.contract.topics import GENERATOR_GROUP
from shared.http.server import free_ports
from tests.faults.harness.fault_fixture import (
    SCENE_S,
    WORK_S,
    FaultFixture,
    fault_fixture,
)
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.history import Fact
from tests.support.composed_clips import compose_cached
from tests.support.films import real_ffmpeg
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

FILM = "uploads/film"
WORKERS = 3
END_S = 120.0  # for the rest, after the last fault
_FOLLOW_S = 0.3
_ACCEPTED_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A requested job."""

    name: str
    scene_count: int
    has_video: bool

    def body(self) -> dict[str, object]:
        """Return the request body."""
        lengths = [SCENE_S[index % len(SCENE_S)] for index in range(self.scene_count)]
        scenes = [{"description": "a calm lake", "duration_s": length} for length in lengths]
        body: dict[str, object] = {"job_id": self.name, "scenes": scenes}
        if self.has_video:
            body |= {"video": {"object": FILM}, "audio_params": {"merge_with_video": True}}
        return body

    def events(self) -> list[str]:
        """Return the kinds of events that the job must publish."""
        kinds = [SegmentGenerated.kind, AudioMerged.kind]
        return [*kinds, VideoMuxed.kind] if self.has_video else kinds


class Client:
    """Requests jobs and polls their statuses while the api may be down."""

    def __init__(self, fixture: FaultFixture, http: httpx.AsyncClient) -> None:
        self._fixture = fixture
        self._http = http
        self._open: list[Job] = []

    async def request(self, job: Job) -> int:
        """Post until accepted, with an idempotency key; return the number of attempts."""
        attempts = 0
        self._fixture.history.wanted(job.name, scene_count=job.scene_count, events=job.events())

        async def poll() -> bool | None:
            nonlocal attempts
            attempts += 1
            try:
                answer = await self._http.post(
                    "/api/v3/audio/generate-scenes",
                    json=job.body(),
                    headers={"Idempotency-Key": job.name},
                )
            except httpx.TransportError:
                return None
            assert not answer.is_client_error, answer.text
            return answer.status_code == httpx.codes.ACCEPTED or None

        await eventually(poll, within_s=_ACCEPTED_S, what=f"{job.name} accepted")
        self._open.append(job)
        return attempts

    async def follow(self) -> None:
        """Poll and record the status of every open job until cancelled."""
        while True:
            for job in tuple(self._open):
                await self._poll(job)
            await asyncio.sleep(_FOLLOW_S)

    async def until_done(self, *, within_s: float) -> None:
        """Wait until `follow` has seen the end of every job."""

        async def poll() -> bool | None:
            return not self._open or None

        await eventually(
            poll, within_s=within_s, what=f"the end of {self._open} in {self._fixture.folder}"
        )

    async def _poll(self, job: Job) -> None:
        try:
            answer = await self._http.get(f"/api/v3/audio/status/{job.name}")
        except httpx.TransportError:
            return
        if answer.status_code != httpx.codes.OK:
            return
        status = answer.json()
        self._fixture.history.status(job.name, status["run"], status["state"])
        if status["state"] in {"completed", "failed"}:  # the checker reports failed jobs
            self._open.remove(job)


@asynccontextmanager
async def full_pipeline(
    kafka: KafkaServer,
    database: str,
    folder: Path,
    *,
    workers: int = WORKERS,
    work_s: float = WORK_S,
    compose: Compose = compose_cached,
    without: str | None = None,
) -> AsyncIterator[tuple[FaultFixture, Client, list[ForkedService]]]:
    """Start all processes and store a video; yield the fixture, the client and the services.

    `without` is the protection that is switched off in the generators.
    """
    (port,) = free_ports(1)
    async with (
        fault_fixture(kafka, folder, partitions=workers, work_s=work_s, compose=compose) as fixture,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        fixture.environment |= {
            "DATABASE_URL": database,
            "SEGUE_API_PORT": str(port),
            "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
        }
        film = folder / "film.mp4"
        source = "color=c=teal:s=64x36:r=25:d=3"
        await real_ffmpeg().run(
            ["-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", film]
        )
        await fixture.store.put_file(FILM, film)
        running = [
            fixture.service("generator", number=number + 1, without=without)
            for number in range(workers)
        ]
        running += [fixture.service(name) for name in ("merger", "muxer", "api")]
        client = Client(fixture, http)
        following = asyncio.create_task(client.follow())
        try:
            for service in running:
                await service.start()
            for service in running:
                await service.ready()
            yield fixture, client, running
        finally:
            following.cancel()
            for service in running:
                await service.kill()


async def ended(
    fixture: FaultFixture,
    client: Client,
    running: Sequence[ForkedService],
    *,
    within_s: float = END_S,
) -> list[Fact]:
    """Wait for the end of all jobs, stop the services and return the history."""
    await client.until_done(within_s=within_s)
    await fixture.until_committed(GENERATOR_GROUP, SceneRequested.kind)
    for service in running:
        assert await service.stop() == 0, str(service.log)
    return await fixture.collect_facts()
