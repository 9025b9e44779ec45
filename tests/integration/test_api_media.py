"""Tracks, videos and segments over HTTP: downloads, ranges, and uploaded videos."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.security.signed_links import LinkSettings
from shared.settings import ScratchSettings
from shared.storage.keys import clip_key, track_key, upload_key, video_key
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import KEYS, TWO_SCENES, ApiFixture, api_fixture, limits
from tests.support.event_builders import a_scene, a_segment
from tests.support.film_clips import film_clips
from tests.support.odd_films import OddFilm, film
from tests.support.run_builders import a_failure, a_track, a_video
from tests.support.servers import Database

pytestmark = pytest.mark.integration
TRACK = bytes(range(256)) * 4096  # four chunks of the store
DOWNLOAD = "/api/v3/audio/job-1/download"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """Yield a job whose track and video are stored, with a fake clock."""
    links = LinkSettings(keys=KEYS, ttl_s=1800)
    clock = FakeClock()
    async with api_fixture(await postgres(), store_folder, clock=clock, links=links) as fixture:
        store = fixture.context.store
        await store.put(track_key("job-1", 1), TRACK)
        await store.put(video_key("job-1", 1), b"video")
        await store.put(clip_key("job-1", 1, 0, 1), b"segment")
        track = a_track().model_copy(update={"object_key": track_key("job-1", 1)})
        video = a_video().model_copy(update={"object_key": video_key("job-1", 1)})
        segment = a_segment(0, count=2, object_key=clip_key("job-1", 1, 0, 1))
        await fixture.apply(segment, track, video)
        yield fixture


async def test_the_track_is_an_attachment_with_its_headers(fixture: ApiFixture) -> None:
    """Type, file name, length and validator."""
    answer = await fixture.client.get(DOWNLOAD)

    assert answer.status_code == 200
    assert answer.content == TRACK
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["content-length"] == str(len(TRACK))
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp3"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


async def test_the_video_is_an_attachment(fixture: ApiFixture) -> None:
    """It is served as MP4."""
    answer = await fixture.client.get("/api/v3/audio/job-1/video")

    assert answer.content == b"video"
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp4"'


async def test_head_returns_the_headers_of_get(fixture: ApiFixture) -> None:
    """For a track, a video and a segment."""
    status = await fixture.status("job-1")
    segment = status["progress"]["scenes"][0]["links"]["segment"]
    for path in (DOWNLOAD, "/api/v3/audio/job-1/video", segment):
        head, got = await fixture.client.head(path), await fixture.client.get(path)

        assert head.status_code == 200
        assert head.content == b""
        assert head.headers == got.headers


async def test_a_range_request_returns_that_part(fixture: ApiFixture) -> None:
    """Also across the store's chunks and from the end."""
    for requested, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=262100-262200", 262_100, 262_201),
        ("bytes=-100", len(TRACK) - 100, len(TRACK)),
    ):
        answer = await fixture.client.get(DOWNLOAD, headers={"Range": requested})

        assert answer.status_code == 206
        assert answer.content == TRACK[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TRACK)}"
        assert answer.headers["content-length"] == str(end - start)


async def test_a_range_behind_the_end_is_416_with_the_length(fixture: ApiFixture) -> None:
    """The client can then request a valid range."""
    answer = await fixture.client.get(DOWNLOAD, headers={"Range": f"bytes={len(TRACK)}-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(TRACK)}"


async def test_validators_decide_between_304_part_and_whole(fixture: ApiFixture) -> None:
    """If-None-Match gets 304; If-Range with another validator gets the whole."""
    etag = (await fixture.client.get(DOWNLOAD)).headers["etag"]
    same = await fixture.client.get(DOWNLOAD, headers={"If-None-Match": f'W/{etag}, "x"'})
    other = await fixture.client.get(DOWNLOAD, headers={"If-None-Match": '"x"'})
    part = {"Range": "bytes=0-9", "If-Range": etag}
    still = await fixture.client.get(DOWNLOAD, headers=part)
    changed = await fixture.client.get(DOWNLOAD, headers={**part, "If-Range": '"x"'})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert other.status_code == 200
    assert (still.status_code, changed.status_code) == (206, 200)


async def test_a_missing_download_is_404_with_the_reason(fixture: ApiFixture) -> None:
    """An unknown job, a job without a track yet, a deleted object."""
    await fixture.post(job_id="young", scenes=TWO_SCENES)
    unknown = await fixture.client.get("/api/v3/audio/unknown/download")
    young = await fixture.client.get("/api/v3/audio/young/download")
    await fixture.context.store.delete(track_key("job-1", 1))
    gone = await fixture.client.get(DOWNLOAD)

    assert {answer.status_code for answer in (unknown, young, gone)} == {404}
    assert "job unknown not found" in unknown.json()["detail"]
    assert "no track yet" in young.json()["detail"]
    assert "no longer in the store" in gone.json()["detail"]


async def test_a_missing_video_is_404_with_the_reason_and_what_to_do(fixture: ApiFixture) -> None:
    """Not asked for, still running, failed, and no run at all."""
    client, video = fixture.client, "https://x.example/v.mp4"
    muxed = {"merge_with_video": True}
    accepted = await fixture.post(job_id="a b", scenes=TWO_SCENES, video=video)
    asked = await fixture.post(job_id="j", scenes=TWO_SCENES, video=video, audio_params=muxed)
    await fixture.post(job_id="track", scenes=TWO_SCENES)
    await fixture.apply(a_track().model_copy(update={"job_id": "track"}))
    await fixture.apply_record(
        "video.stitched",
        b'{"job_id": "up", "scenes": [{"duration_s": 2}], "video": {"url": "https://x.example/v"}}',
    )
    detail = {
        job: (await client.get(f"/api/v3/audio/{job}/video")).json()["detail"]
        for job in ("a%20b", "j", "track", "up")
    }
    await fixture.apply(a_failure().model_copy(update={"job_id": "j"}))
    failed = (await client.get("/api/v3/audio/j/video")).json()["detail"]

    assert accepted.json()["warnings"] == (await fixture.status("a b"))["warnings"] != []
    assert "audio_params.merge_with_video" in accepted.json()["warnings"][0]
    assert asked.json()["warnings"] == (await fixture.status("j"))["warnings"] == []
    assert (
        "a b has no video: run 1 was requested without audio_params.merge_with_video"
        in (detail["a%20b"])
    )
    assert "no video yet: run 1 is still running" in detail["j"]
    assert "follow /api/v3/audio/status/j" in detail["j"]
    assert "send video" in detail["track"]
    assert "it has no run: start one with POST /api/v3/audio/generate-scenes" in detail["up"]
    assert "run 1 failed: " in failed
    assert not any("{" in text for text in [*detail.values(), failed])


async def test_the_last_track_can_be_downloaded_while_a_new_run_is_running(
    fixture: ApiFixture,
) -> None:
    """The new track replaces it once it is stored."""
    await fixture.apply(a_scene(0, count=2, run=2))
    old = await fixture.client.get(DOWNLOAD)
    await fixture.context.store.put(track_key("job-1", 2), b"new")
    newer = a_track(2).model_copy(update={"object_key": track_key("job-1", 2)})
    await fixture.apply(newer)

    assert old.content == TRACK
    assert (await fixture.client.get(DOWNLOAD)).content == b"new"


async def test_a_segment_is_served_by_its_link_and_not_cached(
    fixture: ApiFixture,
) -> None:
    """It can be heard before the track is complete."""
    status = await fixture.status("job-1")
    answer = await fixture.client.get(status["progress"]["scenes"][0]["links"]["segment"])

    assert answer.content == b"segment"
    assert answer.headers["cache-control"] == "private"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-robots-tag"] == "noindex"


async def test_an_expired_segment_link_is_410(fixture: ApiFixture) -> None:
    """The status then has a new link and another validator."""
    assert isinstance(fixture.context.clock, FakeClock)
    before = await fixture.client.get("/api/v3/audio/status/job-1")
    path = before.json()["progress"]["scenes"][0]["links"]["segment"]
    fixture.context.clock.jump(1801)
    gone = await fixture.client.get(path)
    after = await fixture.client.get(
        "/api/v3/audio/status/job-1", headers={"If-None-Match": before.headers["etag"]}
    )
    new = after.json()["progress"]["scenes"][0]["links"]["segment"]

    assert gone.status_code == 410
    assert after.status_code == 200
    assert (await fixture.client.get(new)).status_code == 200


async def test_a_token_that_is_not_of_a_segment_is_404(fixture: ApiFixture) -> None:
    """A sealed key of another object and a forged token are rejected."""
    links = fixture.context.links
    tokens = [
        "x",
        "gAAAAA",
        links.seal(track_key("job-1", 1)),
        links.seal(clip_key("job-1", 1, 7, 1)),
        links.seal("../../etc/passwd"),
        links.seal(clip_key("job-1", 1, 0, 1))[:-8] + "AAAAAAAA",
    ]
    for token in tokens:
        answer = await fixture.client.get(f"/api/v3/audio/segments/{token}")

        assert answer.status_code == 404
        assert answer.json()["detail"] == "segment not found"


async def test_the_status_has_a_validator(fixture: ApiFixture) -> None:
    """An unchanged status gets 304; an event changes the validator."""
    path = "/api/v3/audio/status/job-1"
    etag = (await fixture.client.get(path)).headers["etag"]
    same = await fixture.client.get(path, headers={"If-None-Match": etag})
    await fixture.apply(a_segment(1, count=2))
    changed = await fixture.client.get(path, headers={"If-None-Match": etag})

    assert (same.status_code, changed.status_code) == (304, 200)


async def test_an_uploaded_video_can_be_used_in_a_request(fixture: ApiFixture) -> None:
    """The request uses the response as it is; the same bytes are stored once."""
    video = film_clips().bikes.read_bytes()
    first = await fixture.client.post("/api/v3/videos", content=video)
    repeated = await fixture.client.post("/api/v3/videos", content=video)
    uploaded = first.json()
    requested = await fixture.post(
        job_id="mine",
        scenes=TWO_SCENES,
        video=uploaded["video"],
        audio_params={"merge_with_video": True},
    )

    assert first.status_code == repeated.status_code == 201
    assert repeated.json() == uploaded
    assert (uploaded["width"], uploaded["height"], uploaded["duration_s"]) == (640, 272, 10.0)
    assert uploaded["size_bytes"] == len(video)
    assert uploaded["video"]["object"].startswith(upload_key(""))
    assert requested.status_code == 202
    assert await fixture.context.store.get(uploaded["video"]["object"]) == video


async def test_an_upload_as_a_form_names_the_command_that_works(fixture: ApiFixture) -> None:
    """`curl -F file=@film.mp4` sends a form; nothing of it is stored."""
    for path in ("/api/v3/videos", "/api/v3/audio/styles"):
        answer = await fixture.client.post(path, files={"file": b"a film"})

        assert answer.status_code == 415
        assert answer.json()["detail"] == (
            "the body is a form (multipart/form-data): send the file as the request body, e.g. "
            "curl --data-binary @FILE -H 'Content-Type: application/octet-stream' "
            f"http://localhost{path}"
        )
    assert not [info.key async for info in fixture.context.store.list_objects("uploads/")]


@pytest.mark.parametrize(
    ("upload_of", "message"),
    [
        (lambda _: b"", "empty"),
        (lambda _: b"just some text", "text"),
        (lambda video: video[: len(video) // 2], "early"),
    ],
)
async def test_the_api_rejects_an_upload_that_is_not_a_video(
    fixture: ApiFixture, upload_of: Callable[[bytes], bytes], message: str
) -> None:
    """422 with the field; nothing is stored."""
    body = upload_of(film_clips().bikes.read_bytes())
    answer = await fixture.client.post("/api/v3/videos", content=body)
    stored = [info.key async for info in fixture.context.store.list_objects("uploads/")]

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "video"
    assert message in answer.json()["errors"][0]["message"]
    assert stored == []


async def test_the_api_rejects_a_film_that_cannot_be_scored(
    fixture: ApiFixture, tmp_path: Path
) -> None:
    """At upload, before anything is paid, with a command that converts it."""
    odd = OddFilm(film_clips().bikes).with_edits((0, 1), (2, 3)).write(tmp_path / "odd.mp4")
    vp8 = film(tmp_path / "vp8.webm", "-c:v", "libvpx", "-deadline", "realtime")

    for path, message in ((odd, "shows the picture in 2 parts"), (vp8, "a picture in vp8")):
        answer = await fixture.client.post("/api/v3/videos", content=path.read_bytes())
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["field"]) == (422, "video")
        assert message in error["message"]
        assert error["message"].endswith("-pix_fmt yuv420p -c:a aac OUT.mp4")
    assert not [info.key async for info in fixture.context.store.list_objects("uploads/")]


async def test_the_api_rejects_a_video_over_the_limit(
    postgres: Database, store_folder: Path, tmp_path: Path
) -> None:
    """413 with the limit; the temporary file is deleted."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    small = limits(video_bytes_max=100_000)
    async with api_fixture(
        await postgres(), store_folder, limits=small, scratch=ScratchSettings(folder=scratch)
    ) as fixture:

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 10_000

        answer = await fixture.client.post("/api/v3/videos", content=parts())

    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert list(scratch.iterdir()) == []
