"""The generator checks a run's video before it pays for the first scene."""

import asyncio
from pathlib import Path

import pytest
from typing_extensions import override

from services.generator.scene import film_check
from shared.contract.events import JobCancelled
from shared.contract.params import AudioParams, VideoRef
from shared.errors import JobError, MediaError, StoreUnavailableError
from shared.http.video_source import FetchSettings
from shared.kafka.codec import Envelope, Record
from shared.storage import ObjectStat
from shared.storage.filesystem import FolderStore
from tests.support.event_builders import a_scene
from tests.support.odd_films import B_FRAMES, VP9, OddFilm, ffmpeg, film
from tests.unit.services.generator.scene.handler_fixture import HandlerFixture
from tests.unit.shared.http.upstream_server import Answer, Upstream, upstream

pytestmark = pytest.mark.integration
LOCAL = FetchSettings(allowed_private_hosts="127.0.0.1")
MUXED = AudioParams(merge_with_video=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return films by name; the index of an MP4 is at its end unless the name says otherwise."""
    folder = tmp_path_factory.mktemp("films")
    good = film(folder / "good.mp4", *B_FRAMES)
    cenc = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "0" * 32)
    ffmpeg(
        *("-i", good, "-c", "copy", *cenc, "-encryption_kid", "1" * 32),
        folder / "encrypted.mp4",
    )
    ffmpeg("-i", good, "-c", "copy", "-movflags", "+faststart", folder / "fast.mp4")
    OddFilm(good).with_edits((0, 0.5), (1, 1.5)).write(folder / "edits.mp4")
    film(folder / "vp8.webm", "-c:v", "libvpx", "-deadline", "realtime")
    film(folder / "vp9.webm", *VP9)
    film(folder / "prores.mov", "-c:v", "prores", size="640x360")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def scene_of(
    fixture: HandlerFixture, ref: VideoRef | None, *, index: int = 0, muxed: bool = True
) -> None:
    """Handle a scene of a run with this video."""
    params = MUXED if muxed else AudioParams()
    await fixture.handle(
        a_scene(index, count=2, duration_s=1.5, params=params).model_copy(update={"video": ref})
    )


def at(server: Upstream, path: str = "/film") -> VideoRef:
    """Return the address of the film."""
    return VideoRef(url=f"http://127.0.0.1:{server.port}{path}")


BY_URL = {
    "404": (Answer(status="404 Not Found"), "video.url: 127.0.0.1 returned 404 Not Found"),
    "a page": (Answer(body=b"<html>Please log in</html>"), "not a video: the file is text"),
    "nothing": (Answer(), "not a video: the file is empty"),
    "too large": (
        Answer(status="206 Partial Content", headers={"Content-Range": "bytes 0-0/99999999999"}),
        "the video is too large: 99999999999 bytes",
    ),
}


@pytest.mark.parametrize("case", BY_URL)
async def test_an_unavailable_video_fails_the_job_before_anything_is_paid(
    tmp_path: Path, case: str
) -> None:
    """The error has the field and a code; the next scene of the run fails without a request."""
    answer, message = BY_URL[case]
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)
    async with upstream() as server:
        server.answers["/film"] = answer
        with pytest.raises(JobError, match=message) as failed:
            await scene_of(fixture, at(server))
        count = len(server.requests)
        await scene_of(fixture, at(server), index=1)

        assert len(server.requests) == count
    assert failed.value.reason.startswith("video.url: ")
    assert failed.value.code in {"video_unavailable", "invalid_media"}
    assert fixture.provider.charged == []


UNSUITABLE = {
    "vp8.webm": "MP4 cannot hold a picture in vp8",
    "prores.mov": "MP4 cannot hold a picture in prores",
    "encrypted.mp4": "the film is encrypted",
    "edits.mp4": "shows the picture in 2 parts",
}


@pytest.mark.parametrize("name", UNSUITABLE)
async def test_a_film_that_cannot_be_scored_fails_the_job_before_anything_is_paid(
    films: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    """By its beginning and its index, wherever they are; from a URL and from the store."""
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)
    await fixture.store.put("uploads/film", films[name])
    async with upstream() as server:
        server.answers["/film"] = Answer(body=films[name], ranges=True)
        for ref, field in (
            (at(server), "video.url"),
            (VideoRef(object="uploads/film"), "video.object"),
        ):
            fixture.continuations.states.clear()
            with pytest.raises(JobError, match=f"^{field}: .*{UNSUITABLE[name]}"):
                await scene_of(fixture, ref)

    assert fixture.provider.charged == []


async def test_a_private_host_and_a_missing_object_fail_the_job_before_anything_is_paid(
    tmp_path: Path,
) -> None:
    """Without the setting that allows the host; with no connection to it."""
    fixture = HandlerFixture(tmp_path)
    async with upstream() as server:
        for ref, message in (
            (at(server), "resolves to a private address; upload the video"),
            (VideoRef(object="uploads/none"), "video.object: object not found"),
        ):
            fixture.continuations.states.clear()
            with pytest.raises(JobError, match=message) as failed:
                await scene_of(fixture, ref)
            assert failed.value.code == "video_unavailable"

        assert server.connections == 0
    assert fixture.provider.charged == []


@pytest.mark.parametrize("name", ["good.mp4", "fast.mp4", "vp9.webm"])
@pytest.mark.parametrize("ranges", [True, False])
async def test_a_suitable_video_is_checked_once_and_its_parts_only(
    films: dict[str, bytes], tmp_path: Path, name: str, *, ranges: bool
) -> None:
    """Also on a server without ranges, which shows only the beginning."""
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)
    async with upstream() as server:
        server.answers["/film"] = Answer(body=films[name], ranges=ranges)
        await scene_of(fixture, at(server))
        count = len(server.requests)
        await scene_of(fixture, at(server), index=1)

        assert 1 <= count <= 3
        assert len(server.requests) == count
    assert len(fixture.provider.charged) == 2


async def test_a_video_that_is_not_muxed_is_not_checked(tmp_path: Path) -> None:
    """The run only makes a track."""
    fixture = HandlerFixture(tmp_path)
    await scene_of(fixture, VideoRef(url="http://film.invalid/v.mp4"), muxed=False)

    assert len(fixture.provider.charged) == 1


async def test_a_scene_that_is_paid_for_continues_without_the_video(tmp_path: Path) -> None:
    """A process that ended after the charge: its successor uses the prediction."""
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)

    def stop() -> None:
        raise KeyboardInterrupt

    await fixture.store.put("uploads/film", b"")
    fixture.provider.after_submit = stop
    async with upstream() as server:
        server.answers["/film"] = Answer(body=_webm())
        with pytest.raises(KeyboardInterrupt):
            await scene_of(fixture, at(server))
        fixture.provider.after_submit = None
        fixture.handler = fixture.process()
        server.answers.clear()
        await scene_of(fixture, at(server))

        with pytest.raises(JobError, match="returned 404"):  # the next scene is not paid for
            await scene_of(fixture, at(server), index=1)
    assert len(fixture.provider.charged) == 1
    assert len(fixture.segments()) == 1


def _webm() -> bytes:
    """Return the beginning of a Matroska file that shows nothing."""
    return b"\x1a\x45\xdf\xa3" + bytes(100)


async def test_a_busy_server_is_tried_three_times(tmp_path: Path) -> None:
    """Then the job fails, and a new run may help."""
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)
    async with upstream() as server:
        server.answers["/film"] = Answer(status="503 Service Unavailable")
        with pytest.raises(MediaError, match="returned 503; tried 3 times") as failed:
            await scene_of(fixture, at(server))

        assert len(server.requests) == 3
    assert (failed.value.code, failed.value.retryable) == ("video_unavailable", True)
    assert fixture.provider.charged == []


class UnavailableStore(FolderStore):
    """A store that does not respond to `stat`."""

    @override
    async def stat(self, key: str) -> ObjectStat | None:
        raise StoreUnavailableError("timed out")


async def test_an_unavailable_store_is_retried_with_the_record(tmp_path: Path) -> None:
    """It says nothing about the video."""
    fixture = HandlerFixture(tmp_path)
    fixture.store = UnavailableStore(tmp_path)
    fixture.handler = fixture.process()

    with pytest.raises(StoreUnavailableError):
        await scene_of(fixture, VideoRef(object="uploads/film"))
    assert fixture.provider.charged == []


async def test_a_cancelled_run_ends_the_check_at_once(tmp_path: Path) -> None:
    """The server never answers."""
    fixture = HandlerFixture(tmp_path, fetch=LOCAL)
    async with upstream() as server:
        server.answers["/film"] = Answer(silent=True)
        checking = asyncio.create_task(scene_of(fixture, at(server)))
        async with asyncio.timeout(film_check.PART_S / 2):
            while not server.requests:  # noqa: ASYNC110 - the server has no event to wait for
                await asyncio.sleep(0.01)
            cancelled = JobCancelled(job_id="job-1", run=1)
            record = Record(topic=cancelled.kind, partition=0, offset=1, key=None, value=None)
            fixture.handler.on_received(
                Envelope(event=cancelled, event_id="", traceparent=None, record=record)
            )
            await checking
    assert fixture.published == []
    assert fixture.provider.charged == []
