"""The commands' client: what it makes of every kind of answer."""

import hashlib
import json
from pathlib import Path

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from tests.fakes.api import Answer, fake_api

STARTED = json.dumps(
    {
        "job_id": "j",
        "run": 1,
        "audio_status": {"started_at": "2026-01-01T00:00:00Z", "estimated_duration": "20s"},
        "links": {"self": "/s", "events": "/e"},
    }
).encode()


def test_a_busy_api_is_asked_again() -> None:
    """503 with Retry-After is weather, not an answer."""
    with (
        fake_api(Answer(status=503, headers={"Retry-After": "0"}), Answer(body=STARTED)) as fake,
        ApiClient(fake.url) as api,
    ):
        assert api.start({"job_id": "j"}).run == 1
        assert len(fake.requests) == 2


def test_an_api_that_stays_busy_is_given_up() -> None:
    """Bounded: a command ends."""
    busy = Answer(status=503, headers={"Retry-After": "0"}, body=b'{"detail": "no server"}')
    with (
        fake_api(busy) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match="no server") as caught,
    ):
        api.start({})

    assert caught.value.code is Exit.UNREACHABLE


def test_a_refusal_is_told_in_the_apis_words() -> None:
    """They name field and way out; scripts get the whole problem."""
    problem = {"status": 422, "detail": "scenes[0].duration_s: must be more"}
    refusal = Answer(status=422, body=json.dumps(problem).encode())
    with (
        fake_api(refusal) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match=r"scenes\[0\]\.duration_s") as caught,
    ):
        api.start({})

    assert caught.value.code is Exit.USAGE
    assert caught.value.detail == {"problem": problem}


def test_an_api_that_is_not_there_is_unreachable_and_the_way_out_is_told() -> None:
    """Nobody listens on port 1."""
    with ApiClient("http://127.0.0.1:1") as api:
        with pytest.raises(CommandError, match="segue up") as caught:
            api.status("j")
        assert not api.is_alive

    assert caught.value.code is Exit.UNREACHABLE


def test_somebody_elses_server_is_recognised() -> None:
    """It answers 200, but not as Segue does."""
    with (
        fake_api(Answer(body=b"<html>")) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match="does not answer as a Segue api"),
    ):
        api.status("j")


def test_a_job_id_of_any_letters_is_one_segment_of_the_path() -> None:
    """Emoji, spaces and question marks too."""
    with fake_api(Answer()) as fake, ApiClient(fake.url) as api:
        with pytest.raises(CommandError):
            api.status("a b?🎬")

        assert fake.requests[0][1] == "/api/v3/audio/status/a%20b%3F%F0%9F%8E%AC"


def test_a_video_is_handed_in_byte_for_byte(tmp_path: Path) -> None:
    """Streamed, and longer than one block."""
    video = tmp_path / "film.mp4"
    video.write_bytes(b"\x00\xff" * 400_000)
    answer = {
        "video": {"object": "uploads/x"},
        "size_bytes": 800_000,
        "duration_s": 1.0,
        "width": 2,
        "height": 2,
    }
    with (
        fake_api(Answer(body=json.dumps(answer).encode())) as fake,
        ApiClient(fake.url) as api,
    ):
        assert api.upload(video).video.object == "uploads/x"
        assert fake.requests == [("POST", "/api/v3/videos", video.read_bytes())]


def test_a_style_sample_is_handed_in_by_its_own_route(tmp_path: Path) -> None:
    """Byte for byte; what else the answer says is for others."""
    song = tmp_path / "song.mp3"
    song.write_bytes(b"\xff\xfb\x00" * 1000)
    answer = {"style_audio": {"object": "styles/x"}, "duration_s": 3.0, "of_tomorrow": 1}
    with (
        fake_api(Answer(status=201, body=json.dumps(answer).encode())) as fake,
        ApiClient(fake.url) as api,
    ):
        assert api.upload_style(song).style_audio.object == "styles/x"
        assert fake.requests == [("POST", "/api/v3/audio/styles", song.read_bytes())]


def test_an_api_of_before_the_estimates_is_understood() -> None:
    """A command may be newer than the api it speaks to."""
    with fake_api(Answer(body=STARTED)) as fake, ApiClient(fake.url) as api:
        assert api.start({"job_id": "j"}).estimate is None


def test_a_download_is_there_whole_and_its_facts_are_told(tmp_path: Path) -> None:
    """Nothing lies beside it afterwards."""
    data = b"\x01\x02" * 500_000
    with fake_api(Answer(body=data)) as fake, ApiClient(fake.url) as api:
        facts = api.download("/track", tmp_path / "track.mp3")

    assert (tmp_path / "track.mp3").read_bytes() == data
    assert facts["sha256"] == hashlib.sha256(data).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["track.mp3"]


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """A half file would be taken for a whole one."""
    short = Answer(body=b"12345", headers={"Content-Length": "10"})
    with (
        fake_api(short) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError),
    ):
        api.download("/track", tmp_path / "track.mp3")

    assert not list(tmp_path.iterdir())


def test_an_address_that_is_none_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(CommandError, match="not a URL"):
        ApiClient("http://[bad")
