"""Whole: the whole line in one room: six processes, and somebody who asks and follows.

Three generators, merger, muxer and api, all of them to be killed, on one topic prefix, store and
database; the provider is the room's fake Replicate.

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
    composed_once,
    fault_fixture,
)
from tests.faults.harness.forked_services import Forked
from tests.faults.harness.history import Fact
from tests.support.films import real_ffmpeg
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

FILM = "uploads/film"
WORKERS = 3
END_S = 120.0  # for what is left, once nothing is disturbed any more
_FOLLOW_S = 0.3
_ASK_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What somebody asks for."""

    name: str
    scene_count: int
    has_film: bool

    def body(self) -> dict[str, object]:
        """The request."""
        lengths = [SCENE_S[index % len(SCENE_S)] for index in range(self.scene_count)]
        scenes = [{"description": "a calm lake", "duration_s": length} for length in lengths]
        asked: dict[str, object] = {"job_id": self.name, "scenes": scenes}
        if self.has_film:
            asked |= {"video": {"object": FILM}, "audio_params": {"merge_with_video": True}}
        return asked

    def events(self) -> list[str]:
        """What must come of it."""
        kinds = [SegmentGenerated.kind, AudioMerged.kind]
        return [*kinds, VideoMuxed.kind] if self.has_film else kinds


class Client:
    """Somebody who asks, follows everything, and does not mind that the api goes away."""

    def __init__(self, fixture: FaultFixture, http: httpx.AsyncClient) -> None:
        self._here = fixture
        self._http = http
        self._open: list[Job] = []

    async def request(self, job: Job) -> int:
        """Ask until it is accepted; the key makes it one request. How often it took."""
        asked = 0
        self._here.history.wanted(job.name, scene_count=job.scene_count, events=job.events())

        async def look() -> bool | None:
            nonlocal asked
            asked += 1
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

        await eventually(look, within_s=_ASK_S, what=f"{job.name} accepted")
        self._open.append(job)
        return asked

    async def follow(self) -> None:
        """Write down every status that is told, for ever."""
        while True:
            for job in tuple(self._open):
                await self._look(job)
            await asyncio.sleep(_FOLLOW_S)

    async def until_done(self, *, within_s: float) -> None:
        """Wait for the end of all that was asked for; `follow` sees it."""

        async def look() -> bool | None:
            return not self._open or None

        await eventually(
            look, within_s=within_s, what=f"the end of {self._open} in {self._here.folder}"
        )

    async def _look(self, job: Job) -> None:
        try:
            answer = await self._http.get(f"/api/v3/audio/status/{job.name}")
        except httpx.TransportError:
            return
        if answer.status_code != httpx.codes.OK:
            return
        told = answer.json()
        self._here.history.status(job.name, told["run"], told["state"])
        if told["state"] in {"completed", "failed"}:  # a failed one: the checker says so
            self._open.remove(job)


@asynccontextmanager
async def full_pipeline(
    kafka: KafkaServer,
    database: str,
    folder: Path,
    *,
    workers: int = WORKERS,
    work_s: float = WORK_S,
    compose: Compose = composed_once,
    without: str | None = None,
) -> AsyncIterator[tuple[FaultFixture, Client, list[Forked]]]:
    """All the processes, an api that answers, and a film to be scored.

    `without` names a protection that the generators lack.
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
    fixture: FaultFixture, client: Client, running: Sequence[Forked], *, within_s: float = END_S
) -> list[Fact]:
    """Everything that happened, when all that was asked for is done and all services ended."""
    await client.until_done(within_s=within_s)
    await fixture.until_committed(GENERATOR_GROUP, SceneRequested.kind)
    for service in running:
        assert await service.stop() == 0, str(service.log)
    return await fixture.judged()
