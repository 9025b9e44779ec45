"""Downloads of a video: slow ones delay no other job, and end with their run."""

import asyncio
from pathlib import Path

import pytest

from services.muxer.app import MuxHandler
from shared.contract.events import AudioMerged, Event, JobCancelled, VideoMuxed
from shared.contract.params import VideoRef
from shared.errors import JobError
from shared.kafka.codec import Envelope, Record
from shared.settings import RunLimitSettings, ScratchSettings
from tests.fakes.publisher import FakePublisher
from tests.integration.mux_fixture import MuxFixture
from tests.support.film_clips import film_clips
from tests.unit.shared.http.upstream_server import Answer, upstream
from tests.unit.shared.kafka.test_worker_handlers import a_service

pytestmark = pytest.mark.integration
SLOW_JOBS = 9


def received(event: Event) -> Envelope:
    """Return the event as a received record."""
    record = Record(topic=event.kind, partition=0, offset=0, key=None, value=None)
    return Envelope(event=event, event_id=event.event_id(), traceparent=None, record=record)


async def test_slow_downloads_delay_no_other_job_and_end_when_cancelled(tmp_path: Path) -> None:
    """Nine videos at a byte per 50 ms and one mux slot; then a video of the same server."""
    fixture = MuxFixture(tmp_path, slots=1)
    publisher = FakePublisher()
    handler = MuxHandler(a_service(publisher, tmp_path / "unused"), fixture.mux)
    async with upstream() as server:
        server.answers["/slow"] = Answer(body=b"x" * 10_000, pause_s=0.05)
        server.answers["/film"] = Answer(body=film_clips().carphone.read_bytes())
        at = f"http://127.0.0.1:{server.port}"
        track = await fixture.store_track(video=VideoRef(url=f"{at}/film"), track_s=2.0)
        slow = [_of_job(track, f"slow-{n}", f"{at}/slow") for n in range(SLOW_JOBS)]
        muxing = [asyncio.ensure_future(handler.handle(received(event))) for event in slow]
        async with asyncio.timeout(20):
            while server.slow < SLOW_JOBS:  # noqa: ASYNC110 - another task's connections
                await asyncio.sleep(0.01)
            await handler.handle(received(track))
        assert [type(event) for event in publisher.events] == [VideoMuxed]
        assert not any(task.done() for task in muxing)

        for event in slow:
            handler.on_received(received(JobCancelled(job_id=event.job_id, run=1)))
        async with asyncio.timeout(2):
            await asyncio.gather(*muxing)
            while server.slow:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
    assert len(publisher.events) == 1
    assert not list(fixture.scratch.iterdir())


def _of_job(track: AudioMerged, job_id: str, url: str) -> AudioMerged:
    return track.model_copy(update={"job_id": job_id, "video": VideoRef(url=url)})


async def test_a_run_over_a_limit_fails_with_the_reason(tmp_path: Path) -> None:
    """Scratch space of the run, of an upload and of a download; length and number of scenes."""
    film = film_clips().carphone
    small = ScratchSettings(folder=tmp_path / "scratch", run_bytes_max=film.stat().st_size - 1)
    async with upstream() as server:
        server.answers["/film"] = Answer(body=film.read_bytes(), promised=-1)
        url = VideoRef(url=f"http://127.0.0.1:{server.port}/film")
        fixture = MuxFixture(tmp_path, scratch=small)
        for video in (film, url):
            track = await fixture.store_track(video=video, track_s=2.0)
            with pytest.raises(JobError, match="SEGUE_SCRATCH_RUN_BYTES_MAX") as caught:
                await fixture.mux.run(track)
            assert caught.value.code == "scratch_limit"
    await fixture.assert_no_video()

    fixture = MuxFixture(tmp_path / "limits", limits=RunLimitSettings(run_s_max=1.5))
    with pytest.raises(JobError, match=r"the scenes last 2 s, at most 1\.5 s") as caught:
        await fixture.mux.run(await fixture.store_track(video=film, track_s=2.0))
    assert caught.value.code == "limit_exceeded"
