"""Chaos: services are killed at random, round after round, while jobs come in; nothing shows.

A round kills one of six processes with `kill -9`, waits a little, starts it again and goes on;
with every other round somebody asks for another job. Which one, when and for what: all of it
comes from one seed, which is printed. `SEGUE_CHAOS_SEED=…` brings the same draws again,
`SEGUE_CHAOS=long` (`make chaos`) a hundred rounds instead of a few. What the draws hit in the
processes is still their own timing.
"""

import asyncio
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from embedded.server import free_ports
from shared.events import AudioMerged, SceneRequested, SegmentGenerated, VideoMuxed
from shared.storage.keys import claim_key, prediction_key
from shared.topics import GENERATOR_GROUP
from tests.faults import checker
from tests.faults.forked import Forked
from tests.faults.history import Fact, append
from tests.faults.room import SCENE_S, Room, report, room
from tests.films import real_ffmpeg
from tests.running import eventually
from tests.servers import Database, KafkaServer

LONG = os.environ.get("SEGUE_CHAOS") == "long"  # noqa: TID251 - the suite's own setting
SEED = int(os.environ.get("SEGUE_CHAOS_SEED") or secrets.randbelow(10**6))  # noqa: TID251
ROUNDS = 100 if LONG else 8
BOUND_S = 45 * 60 if LONG else 240
END_S = 300.0 if LONG else 120.0  # for what is left, once nobody dies any more

pytestmark = [pytest.mark.integration, pytest.mark.timeout(BOUND_S)]

FILM = "uploads/film"
WORKERS = 3
DOWN_S, UP_S = (0.1, 1.0), (1.0, 3.0)  # between death and new start, and until the next death
_FOLLOW_S = 0.3
_ASK_S = 60.0
LostClaims = frozenset[tuple[str, int, int, int]]


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


@dataclass(frozen=True, kw_only=True)
class Round:
    """What happens in one round."""

    victim: int
    down_s: float
    up_s: float
    job: Job | None


def _drawn(seed: int, *, rounds: int, victims: int) -> list[Round]:
    """Everything that is left to chance."""
    chance = random.Random(seed)
    found = []
    for number in range(rounds):
        job = Job(
            name=f"job-{number}", scene_count=chance.randint(2, 4), has_film=chance.random() < 0.3
        )
        found.append(
            Round(
                victim=chance.randrange(victims),
                down_s=chance.uniform(*DOWN_S),
                up_s=chance.uniform(*UP_S),
                job=job if number % 2 == 0 else None,
            )
        )
    return found


class Client:
    """Somebody who asks, follows everything, and does not mind that the api goes away."""

    def __init__(self, here: Room, http: httpx.AsyncClient) -> None:
        self._here = here
        self._http = http
        self._open: list[Job] = []

    async def ask(self, job: Job) -> None:
        """Ask until it is accepted; the key makes it one request, however often it is sent."""
        self._here.history.wanted(job.name, scene_count=job.scene_count, events=job.events())

        async def look() -> bool | None:
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

    async def follow(self) -> None:
        """Write down every status that is told, for ever."""
        while True:
            for job in tuple(self._open):
                await self._look(job)
            await asyncio.sleep(_FOLLOW_S)

    async def until_done(self) -> None:
        """Wait for the end of all that was asked for; `follow` sees it."""

        async def look() -> bool | None:
            return not self._open or None

        await eventually(
            look, within_s=END_S, what=f"the end of {self._open} in {self._here.folder}"
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
async def _line(
    kafka: KafkaServer, database: str, folder: Path
) -> AsyncIterator[tuple[Room, Client, list[Forked]]]:
    """All six processes, an api that answers, and a film to be scored."""
    (port,) = free_ports(1)
    async with (
        room(kafka, folder, partitions=WORKERS) as here,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        here.environment |= {
            "DATABASE_URL": database,
            "SEGUE_API_PORT": str(port),
            "SEGUE_SEGMENT_KEYS": "a secret for tests alone",
        }
        film = folder / "film.mp4"
        source = "color=c=teal:s=64x36:r=25:d=3"
        await real_ffmpeg().run(
            ["-v", "error", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", film]
        )
        await here.store.put_file(FILM, film)
        running = [here.service("generator", number=number + 1) for number in range(WORKERS)]
        running += [here.service(name) for name in ("merger", "muxer", "api")]
        client = Client(here, http)
        following = asyncio.create_task(client.follow())
        try:
            for service in running:
                await service.start()
            for service in running:
                await service.ready()
            yield here, client, running
        finally:
            following.cancel()
            for service in running:
                await service.kill()


async def _ended(here: Room, client: Client, running: Sequence[Forked]) -> list[Fact]:
    """Everything that happened, when all that was asked for is done and all services ended."""
    await client.until_done()
    await here.until_committed(GENERATOR_GROUP, SceneRequested.kind)
    for service in running:
        assert await service.stop() == 0, str(service.log)
    return await here.judged()


async def _disturbed(
    kafka: KafkaServer, database: str, folder: Path, rounds: Sequence[Round]
) -> list[Fact]:
    """The rounds, one after the other, and what is left then."""
    async with _line(kafka, database, folder) as (here, client, running):
        for number, one in enumerate(rounds):
            if one.job is not None:
                await client.ask(one.job)
            await asyncio.sleep(one.up_s)
            victim = running[one.victim]
            victim.send(signal.SIGKILL)
            code = await victim.ended(within_s=10)
            assert code == -signal.SIGKILL, f"{victim.log} ended by itself: {code}"
            at = f"round {number}"
            append(here.history.path, kind="end", service=victim.name, at=at, how="killed")
            await asyncio.sleep(one.down_s)
            await victim.start()
        return await _ended(here, client, running)


async def _undisturbed(
    kafka: KafkaServer, database: str, folder: Path, jobs: Sequence[Job], lost: LostClaims
) -> list[Fact]:
    """The same jobs in peace, where the same claims had been used up."""
    async with _line(kafka, database, folder) as (here, client, running):
        for job, run, scene, attempt in lost:
            await here.store.put(claim_key(job, run, scene, attempt), b"{}")
            await here.store.put(prediction_key(job, run, scene, attempt), b"")
        for one in jobs:
            await client.ask(one)
        return await _ended(here, client, running)


def _bill(history: Sequence[Fact]) -> Mapping[str, int]:
    return {what: checker.figures(history)[what] for what in ("charged", "scenes", "ends")}


async def test_whoever_is_killed_whenever_nothing_of_it_shows(
    kafka: KafkaServer, postgres: Database, tmp_path: Path
) -> None:
    """Rounds of `kill -9`: lost 0, order kept, no status backwards, charged once, same music."""
    sys.stdout.write(f"SEGUE_CHAOS_SEED={SEED}: {ROUNDS} rounds\n")
    rounds = _drawn(SEED, rounds=ROUNDS, victims=WORKERS + 3)
    jobs = [one.job for one in rounds if one.job is not None]

    happened = await _disturbed(kafka, await postgres(), tmp_path / "disturbed", rounds)
    lost = checker.lost_claims(happened)
    peace = await _undisturbed(kafka, await postgres(), tmp_path / "undisturbed", jobs, lost)

    told = sum(fact["kind"] == "status" for fact in happened)
    deaths = f"{told} statuses told, {len(lost)} claims used up by a death"
    sys.stdout.write(report(f"chaos, seed {SEED}", [happened]) + f"; {deaths}\n")
    assert checker.violations(happened) == []
    assert checker.differences(happened, peace) == []
    assert checker.violations(peace) == []
    scenes = sum(job.scene_count for job in jobs)
    assert _bill(happened) == {"charged": scenes, "scenes": scenes, "ends": ROUNDS}
