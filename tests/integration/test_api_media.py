"""Tracks, videos and segments over HTTP: whole, in part, and videos handed in."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared.security.signed_links import LinkSettings
from shared.storage.keys import clip_key, track_key, upload_key, video_key
from tests.fakes.clock import FakeClock
from tests.support.api_fixture import KEYS, TWO_SCENES, EdgeLine, edge_line, limits
from tests.support.event_builders import a_scene, a_segment
from tests.support.film_clips import film_clips
from tests.support.run_builders import a_track, a_video
from tests.support.servers import Database

pytestmark = pytest.mark.integration
TRACK = bytes(range(256)) * 4096  # four chunks of the store
DOWNLOAD = "/api/v3/audio/job-1/download"


@pytest.fixture
async def line(postgres: Database, store_folder: Path) -> AsyncIterator[EdgeLine]:
    """A job whose track and video lie in the store, on a clock that stands still."""
    links = LinkSettings(keys=KEYS, ttl_s=1800)
    clock = FakeClock()
    async with edge_line(await postgres(), store_folder, clock=clock, links=links) as line:
        store = line.edge.store
        await store.put(track_key("job-1", 1), TRACK)
        await store.put(video_key("job-1", 1), b"video")
        await store.put(clip_key("job-1", 1, 0, 1), b"segment")
        track = a_track().model_copy(update={"object_key": track_key("job-1", 1)})
        video = a_video().model_copy(update={"object_key": video_key("job-1", 1)})
        segment = a_segment(0, count=2, object_key=clip_key("job-1", 1, 0, 1))
        await line.hear(segment, track, video)
        yield line


async def test_the_track_is_an_attachment_that_says_what_it_is(line: EdgeLine) -> None:
    """Type, name, length, validator."""
    answer = await line.client.get(DOWNLOAD)

    assert answer.status_code == 200
    assert answer.content == TRACK
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["content-length"] == str(len(TRACK))
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp3"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


async def test_the_video_is_served_likewise(line: EdgeLine) -> None:
    """As MP4."""
    answer = await line.client.get("/api/v3/audio/job-1/video")

    assert answer.content == b"video"
    assert answer.headers["content-disposition"] == 'attachment; filename="job-1.mp4"'


async def test_head_says_everything_but_the_bytes(line: EdgeLine) -> None:
    """Of all three kinds of file."""
    told = await line.status("job-1")
    segment = told["progress"]["scenes"][0]["links"]["segment"]
    for path in (DOWNLOAD, "/api/v3/audio/job-1/video", segment):
        head, got = await line.client.head(path), await line.client.get(path)

        assert head.status_code == 200
        assert head.content == b""
        assert head.headers == got.headers


async def test_a_range_is_answered_with_that_part(line: EdgeLine) -> None:
    """Also across the store's chunks and from the end."""
    for asked, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=262100-262200", 262_100, 262_201),
        ("bytes=-100", len(TRACK) - 100, len(TRACK)),
    ):
        answer = await line.client.get(DOWNLOAD, headers={"Range": asked})

        assert answer.status_code == 206
        assert answer.content == TRACK[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TRACK)}"
        assert answer.headers["content-length"] == str(end - start)


async def test_a_range_behind_the_end_is_416_with_the_length(line: EdgeLine) -> None:
    """So that the client can ask again."""
    answer = await line.client.get(DOWNLOAD, headers={"Range": f"bytes={len(TRACK)}-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(TRACK)}"


async def test_validators_spare_the_bytes_or_insist_on_them(line: EdgeLine) -> None:
    """If-None-Match is 304; If-Range with another validator is the whole."""
    etag = (await line.client.get(DOWNLOAD)).headers["etag"]
    same = await line.client.get(DOWNLOAD, headers={"If-None-Match": f'W/{etag}, "x"'})
    other = await line.client.get(DOWNLOAD, headers={"If-None-Match": '"x"'})
    part = {"Range": "bytes=0-9", "If-Range": etag}
    still = await line.client.get(DOWNLOAD, headers=part)
    changed = await line.client.get(DOWNLOAD, headers={**part, "If-Range": '"x"'})

    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    assert other.status_code == 200
    assert (still.status_code, changed.status_code) == (206, 200)


async def test_nothing_to_download_is_404_that_says_why(line: EdgeLine) -> None:
    """An unknown job, a job without a track yet, an object that is gone."""
    await line.post(job_id="young", scenes=TWO_SCENES)
    unknown = await line.client.get("/api/v3/audio/nobody/download")
    young = await line.client.get("/api/v3/audio/young/download")
    await line.edge.store.delete(track_key("job-1", 1))
    gone = await line.client.get(DOWNLOAD)

    assert {answer.status_code for answer in (unknown, young, gone)} == {404}
    assert "there is no job nobody" in unknown.json()["detail"]
    assert "no track yet" in young.json()["detail"]
    assert "no longer in the store" in gone.json()["detail"]


async def test_the_last_track_stays_while_a_new_run_is_under_way(line: EdgeLine) -> None:
    """And the new one takes its place when it is there."""
    await line.hear(a_scene(0, count=2, run=2))
    old = await line.client.get(DOWNLOAD)
    await line.edge.store.put(track_key("job-1", 2), b"new")
    newer = a_track(2).model_copy(update={"object_key": track_key("job-1", 2)})
    await line.hear(newer)

    assert old.content == TRACK
    assert (await line.client.get(DOWNLOAD)).content == b"new"


async def test_a_segment_is_open_to_whoever_has_its_link_and_private_to_them(
    line: EdgeLine,
) -> None:
    """Listen while it is made."""
    told = await line.status("job-1")
    answer = await line.client.get(told["progress"]["scenes"][0]["links"]["segment"])

    assert answer.content == b"segment"
    assert answer.headers["cache-control"] == "private"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-robots-tag"] == "noindex"


async def test_a_segment_link_is_good_for_its_time_and_then_gone(line: EdgeLine) -> None:
    """410; the status has a new one by then, and its validator changed with it."""
    assert isinstance(line.edge.clock, FakeClock)
    before = await line.client.get("/api/v3/audio/status/job-1")
    path = before.json()["progress"]["scenes"][0]["links"]["segment"]
    line.edge.clock.jump(1801)
    gone = await line.client.get(path)
    after = await line.client.get(
        "/api/v3/audio/status/job-1", headers={"If-None-Match": before.headers["etag"]}
    )
    new = after.json()["progress"]["scenes"][0]["links"]["segment"]

    assert gone.status_code == 410
    assert after.status_code == 200
    assert (await line.client.get(new)).status_code == 200


async def test_a_token_opens_clips_and_nothing_else(line: EdgeLine) -> None:
    """Not a track, however well it is sealed; not a token that somebody made up."""
    links = line.edge.links
    tokens = [
        "x",
        "gAAAAA",
        links.seal(track_key("job-1", 1)),
        links.seal(clip_key("job-1", 1, 7, 1)),
        links.seal("../../etc/passwd"),
        links.seal(clip_key("job-1", 1, 0, 1))[:-8] + "AAAAAAAA",
    ]
    for token in tokens:
        answer = await line.client.get(f"/api/v3/audio/segments/{token}")

        assert answer.status_code == 404
        assert answer.json()["detail"] == "there is no such segment"


async def test_the_status_has_a_validator(line: EdgeLine) -> None:
    """Nobody downloads what did not change; an event changes it."""
    path = "/api/v3/audio/status/job-1"
    etag = (await line.client.get(path)).headers["etag"]
    same = await line.client.get(path, headers={"If-None-Match": etag})
    await line.hear(a_segment(1, count=2))
    changed = await line.client.get(path, headers={"If-None-Match": etag})

    assert (same.status_code, changed.status_code) == (304, 200)


async def test_a_video_that_is_handed_in_can_be_scored(line: EdgeLine) -> None:
    """What the answer says goes into the request as it is; the same bytes are kept once."""
    video = film_clips().bikes.read_bytes()
    first = await line.client.post("/api/v3/videos", content=video)
    again = await line.client.post("/api/v3/videos", content=video)
    told = first.json()
    asked = await line.post(
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
    assert await line.edge.store.get(told["video"]["object"]) == video


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda _: b"", "empty"),
        (lambda _: b"just some text", "text"),
        (lambda video: video[: len(video) // 2], "early"),
    ],
)
async def test_what_is_no_video_is_refused_in_words(
    line: EdgeLine, made: Callable[[bytes], bytes], words: str
) -> None:
    """422 naming the field; nothing is kept, here or in the store."""
    body = made(film_clips().bikes.read_bytes())
    answer = await line.client.post("/api/v3/videos", content=body)
    kept = [found.key async for found in line.edge.store.list_objects("uploads/")]

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
    async with edge_line(await postgres(), store_folder, limits=small, scratch_dir=scratch) as line:

        async def parts() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 10_000

        answer = await line.client.post("/api/v3/videos", content=parts())

    assert answer.status_code == 413
    assert "100000" in answer.json()["detail"]
    assert list(scratch.iterdir()) == []
