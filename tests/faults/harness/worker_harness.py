"""Runs one merger or muxer as a process on complete runs.

The harness stores the inputs of earlier stages itself: clips, tracks and a video. The caller
chooses the lengths, so a job is as large as its test needs.

I/O: a store, Kafka, ffmpeg, processes.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.contract.events import AudioMerged, Event, JobFailed, SegmentGenerated, VideoMuxed
from shared.contract.params import AudioParams, VideoRef
from shared.contract.topics import EVENT_TOPICS
from shared.media.samples import samples_at
from shared.storage import keys
from tests.faults.harness.fault_fixture import FaultFixture, fault_fixture
from tests.faults.harness.forked_services import ForkedService
from tests.faults.harness.process_probe import (
    ResultConsumer,
    ResultRecord,
    result_consumer,
    working_children,
)
from tests.support.audio_builders import Take, a_run_of_takes
from tests.support.films import a_track, real_ffmpeg
from tests.support.processes import eventually
from tests.support.servers import KafkaServer

FILM, SMALL_FILM = "uploads/film", "uploads/small"  # 650 KB and 4 KB
FILM_S = 3.0
_TEAL = "color=c=teal:s=64x36:r=25:d=1"
_NOISE = f"nullsrc=s=128x128:r=25:d={FILM_S:g},geq=random(1)*255:128:128"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A service that turns one kind of event into another."""

    service: str
    consumes: type[Event]
    produces: type[Event]
    encodes: str  #: an argument of the ffmpeg call that writes the result


MERGER = Stage(
    service="merger", consumes=SegmentGenerated, produces=AudioMerged, encodes="libmp3lame"
)
MUXER = Stage(service="muxer", consumes=AudioMerged, produces=VideoMuxed, encodes="+faststart")


class WorkerHarness:
    """The service, its inputs and its results."""

    def __init__(
        self,
        fixture: FaultFixture,
        stage: Stage,
        service: ForkedService,
        results: ResultConsumer,
        scratch: Path,
    ) -> None:
        self.fixture, self.stage, self.service = fixture, stage, service
        self.results, self.scratch = results, scratch

    async def request(
        self, job_id: str, run: int = 1, *, seconds: float = 1.5, film: str = FILM
    ) -> None:
        """Publish a run for the service; `film` is the video of a muxer's run."""
        if self.stage is MERGER:
            await self.fixture.publish(await _merge_of(self.fixture, job_id, run, seconds))
        else:
            await self.fixture.publish(await _mux_of(self.fixture, job_id, run, seconds, film))

    async def first_result(self, job_id: str, run: int = 1) -> ResultRecord:
        """Wait for the first result of a run; return it."""
        return await self.results.first(job_id, run)

    async def done(self, job_id: str, run: int = 1) -> ResultRecord:
        """Wait for the result of a run; check its stored object; return the record."""
        record = await self.first_result(job_id, run)
        assert record.topic == self.stage.produces.kind, record.value
        data = await self.fixture.store.get(record.value["object_key"])
        assert hashlib.sha256(data).hexdigest() == record.value["sha256"]
        return record

    async def failed(self, job_id: str, run: int = 1) -> ResultRecord:
        """Wait for the failure of a run; return the record."""
        record = await self.first_result(job_id, run)
        assert record.topic == JobFailed.kind, record.value
        return record

    async def at_rest(self) -> None:
        """Wait until the service has no working child process and no temporary file."""

        async def poll() -> bool | None:
            left = list(self.scratch.iterdir())
            return (not left and not working_children(self.service.pid)) or None

        await eventually(
            poll, within_s=30, what=f"no child and no temporary file, {self.service.log}"
        )


@asynccontextmanager
async def worker_harness(
    kafka: KafkaServer, folder: Path, stage: Stage, *, scratch: Path, **settings: str
) -> AsyncIterator[WorkerHarness]:
    """Start a service with temporary files in `scratch`; stop it cleanly at the end."""
    scratch.mkdir(exist_ok=True)
    async with fault_fixture(kafka, folder) as fixture:
        fixture.environment |= {"SEGUE_SCRATCH_DIR": str(scratch), **settings}
        await fixture.store.put_file(FILM, await _film(folder / "film.mp4", _NOISE))
        await fixture.store.put_file(SMALL_FILM, await _film(folder / "small.mp4", _TEAL))
        service = fixture.service(stage.service)
        topics = [stage.produces.kind, JobFailed.kind, *(t.dead_letters for t in EVENT_TOPICS)]
        async with result_consumer(kafka.bootstrap, topics, prefix=fixture.prefix) as results:
            try:
                await service.start()
                await service.ready()
                yield WorkerHarness(fixture, stage, service, results, scratch)
                assert await service.stop() == 0, "the service did not stop cleanly"
            finally:
                await service.kill()


@cache
def _takes(seconds: float) -> tuple[Take, ...]:
    return tuple(a_run_of_takes([seconds / 2, seconds / 2], as_mp3=True))


async def _merge_of(
    fixture: FaultFixture, job_id: str, run: int, seconds: float
) -> SegmentGenerated:
    segments = []
    for index, take in enumerate(_takes(seconds)):
        key = keys.clip_key(job_id, run, index, 1)
        fields = {"job_id": job_id, "run": run, "object_key": key}
        segment = take.segment.model_copy(update=fields)
        assert take.file is not None
        await fixture.store.put(key, take.file)
        record = segment.model_dump_json().encode()
        await fixture.store.put(keys.segment_key(job_id, run, index), record)
        segments.append(segment)
    return segments[-1]


async def _mux_of(
    fixture: FaultFixture, job_id: str, run: int, seconds: float, film: str
) -> AudioMerged:
    track = await a_track(fixture.folder / "track.mp3", samples=samples_at(seconds))
    key = keys.track_key(job_id, run)
    await fixture.store.put_file(key, track)
    return AudioMerged(
        job_id=job_id,
        run=run,
        scene_count=1,
        object_key=key,
        sha256=hashlib.sha256(track.read_bytes()).hexdigest(),
        size_bytes=track.stat().st_size,
        samples=samples_at(seconds),
        duration_s=seconds,
        loudness_lufs=-14.0,
        params=AudioParams(merge_with_video=True),
        video=VideoRef(object=film),
    )


async def _film(path: Path, picture: str) -> Path:
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    await real_ffmpeg().run(["-v", "error", "-f", "lavfi", "-i", picture, *coded, path])
    return path
