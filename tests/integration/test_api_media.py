"""Tracks, videos and segments over HTTP: whole, in part, and videos handed in."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.security.signed_links import LinkSettings
from shared.storage.keys import clip_key, track_key, upload_key, video_key
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import KEYS, TWO_SCENES, ApiFixture, api_fixture, limits
from tests.support.event_builders import a_scene, a_segment
from tests.support.film_clips import film_clips
from tests.support.run_builders import a_track, a_video
from tests.support.servers import Database

pytestmark = pytest.mark.integration
TRACK = bytes(range(256)) * 4096  # four chunks of the store
DOWNLOAD = "/api/v3/audio/job-1/download"


@pytest.fixture
async def fixture(postgres: Database, store_folder: Path) -> AsyncIterator[ApiFixture]:
    """A job whose track and video lie in the store, on a clock that stands still."""
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


async def test_the_track_is_an_attachment_that_says_what_it_is(fixture: ApiFixture) -> None:
    """Type, name, length, validator."""
    answer = await fixture.client.get(DOWNLOAD)

    assert answer.status_code == 200
    assert answer.content == TRACK
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["content-length"] == str(len(TRACK))
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp3"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


async def test_the_video_is_served_likewise(fixture: ApiFixture) -> None:
    """As MP4."""
    answer = await fixture.client.get("/api/v3/audio/job-1/video")

    assert answer.content == b"video"
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp4"'


async def test_head_says_everything_but_the_bytes(fixture: ApiFixture) -> None:
    """Of all three kinds of file."""
    told = await fixture.status("job-1")
    segment = told["progress"]["scenes"][0]["links"]["segment"]
    for path in (DOWNLOAD, "/api/v3/audio/job-1/video", segment):
        head, got = await fixture.client.head(path), await fixture.client.get(path)

        assert head.status_code == 200
        assert head.content == b""
        assert head.headers == got.headers


async def test_a_range_is_answered_with_that_part(fixture: ApiFixture) -> None:
    """Also across the store's chunks and from the end."""
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=262100-262200", 262_100, 262_201),
        ("bytes=-100", len(TRACK) - 100, len(TRACK)),
    ):
        answer = await fixture.client.get(DOWNLOAD, headers={"Range": asked})

        assert answer.status_code == 206
        assert answer.content == TRACK[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TRACK)}"
        assert answer.headers["content-length"] == str(end - start)


async def test_a_range_behind_the_end_is_416_with_the_length(fixture: ApiFixture) -> None:
    """So that the client can ask again."""
    answer = await fixture.client.get(DOWNLOAD, headers={"Range": f"bytes={len(TRACK)}-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(TRACK)}"


async def test_validators_spare_the_bytes_or_insist_on_them(fixture: ApiFixture) -> None:
    """If-None-Match is 304; If-Range with another validator is the whole."""
    etag = (await fixture.client.get(DOWNLOAD)).headers["etag"]
    same = await fixture.client.get(DOWNLOAD, headers={"If-None-Match": f'W/{etag}, "x"'})
    other = await fixture.client.get(DOWNLOAD, headers={"If-None-Match": '"x"'})
    part = {"Range": "bytes=0-9", "If-Range": etag}
    still = await fixture.client.get(DOWNLOAD, headers=part)
    changed = await fixture.client.get(DOWNLOAD, headers={**part, "If-Range": '"x"'})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert other.status_code == 200
    assert (still.status_code, changed.status_code) == (206, 200)


async def test_nothing_to_download_is_404_that_says_why(fixture: ApiFixture) -> None:
    """An unknown job, a job without a track yet, an object that is gone."""
    await fixture.post(job_id="young", scenes=TWO_SCENES)
    unknown = await fixture.client.get("/api/v3/audio/nobody/download")
    young = await fixture.client.get("/api/v3/audio/young/download")
    await fixture.context.store.delete(track_key("job-1", 1))
    gone = await fixture.client.get(DOWNLOAD)

    assert {answer.status_code for answer in (unknown, young, gone)} == {404}
    assert "job nobody not found" in unknown.json()["detail"]
    assert "no track yet" in young.json()["detail"]
    assert "no longer in the store" in gone.json()["detail"]


async def test_the_last_track_stays_while_a_new_run_is_under_way(fixture: ApiFixture) -> None:
    """And the new one takes its place when it is there."""
    await fixture.apply(a_scene(0, count=2, run=2))
    old = await fixture.client.get(DOWNLOAD)
    await fixture.context.store.put(track_key("job-1", 2), b"new")
    newer = a_track(2).model_copy(update={"object_key": track_key("job-1", 2)})
    await fixture.apply(newer)

    assert old.content == TRACK
    assert (await fixture.client.get(DOWNLOAD)).content == b"new"


async def test_a_segment_is_open_to_whoever_has_its_link_and_private_to_them(
    fixture: ApiFixture,
) -> None:
    """Listen while it is made."""
    told = await fixture.status("job-1")
    answer = await fixture.client.get(told["progress"]["scenes"][0]["links"]["segment"])

    assert answer.content == b"segment"
    assert answer.headers["cache-control"] == "private"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-robots-tag"] == "noindex"


async def test_a_segment_link_is_good_for_its_time_and_then_gone(fixture: ApiFixture) -> None:
    """410; the status has a new one by then, and its validator changed with it."""
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


async def test_a_token_opens_clips_and_nothing_else(fixture: ApiFixture) -> None:
    """Not a track, however well it is sealed; not a token that somebody made up."""
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
    """Nobody downloads what did not change; an event changes it."""
    path = "/api/v3/audio/status/job-1"
    etag = (await fixture.client.get(path)).headers["etag"]
    same = await fixture.client.get(path, headers={"If-None-Match": etag})
    await fixture.apply(a_segment(1, count=2))
    changed = await fixture.client.get(path, headers={"If-None-Match": etag})

    assert (same.status_code, changed.status_code) == (304, 200)


async def test_a_video_that_is_handed_in_can_be_scored(fixture: ApiFixture) -> None:
    """What the answer says goes into the request as it is; the same bytes are kept once."""
    video = film_clips().bikes.read_bytes()
    first = await fixture.client.post("/api/v3/videos", content=video)
    again = await fixture.client.post("/api/v3/videos", content=video)
    told = first.json()
    asked = await fixture.post(
        job_id="mine",
        scenes=TWO_SCENES,
        video=told["video"],
        audio_params={"merge_with_video": True},
    )

    assert first.status_code == again.status_code == 201
    assert again.json() == told
    assert (told["width"], told["height"], told["duration_s"]) == (640, 272, 10.0)
    assert told["size_bytes"] == len(video)
    assert told["video"]["object"].startswith(upload_key(""))
    assert asked.status_code == 202
    assert await fixture.context.store.get(told["video"]["object"]) == video


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda _: b"", "empty"),
        (lambda _: b"just some text", "text"),
        (lambda video: video[: len(video) // 2], "early"),
    ],
)
async def test_what_is_no_video_is_refused_in_words(
    fixture: ApiFixture, made: Callable[[bytes], bytes], words: str
) -> None:
    """422 naming the field; nothing is kept, here or in the store."""
    body = made(film_clips().bikes.read_bytes())
    answer = await fixture.client.post("/api/v3/videos", content=body)
    kept = [found.key async for found in fixture.context.store.list_objects("uploads/")]

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "video"
    assert words in answer.json()["errors"][0]["message"]
    assert kept == []


async def test_a_video_beyond_the_limit_is_refused_naming_it(
    postgres: Database, store_folder: Path, tmp_path: Path
) -> None:
    """And its temporary file is gone."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    small = limits(video_bytes_max=100_000)
    async with api_fixture(
        await postgres(), store_folder, limits=small, scratch_dir=scratch
    ) as fixture:

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 10_000

        answer = await fixture.client.post("/api/v3/videos", content=parts())

    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert list(scratch.iterdir()) == []
