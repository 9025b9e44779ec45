"""Tests of ops/score/api_client.py: what the client does with each kind of response."""

import hashlib
import json
from pathlib import Path

import pytest

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from services.api.operators import job_not_found
from tests.fakes.api import Answer, fake_api

STARTED = json.dumps(
    {
        "job_id": "j",
        "run": 1,
        "audio_status": {"started_at": "2026-01-01T00:00:00Z", "estimated_duration": "20s"},
        "links": {"self": "/s", "events": "/e"},
    }
).encode()


def test_a_request_to_a_busy_api_is_retried() -> None:
    """503 with Retry-After is retried."""
    with (
        fake_api(Answer(status=503, headers={"Retry-After": "0"}), Answer(body=STARTED)) as fake,
        ApiClient(fake.url) as api,
    ):
        assert api.start({"job_id": "j"}).run == 1
        assert len(fake.requests) == 2


def test_retries_to_a_busy_api_are_bounded() -> None:
    """The command fails with the api's message."""
    busy = Answer(status=503, headers={"Retry-After": "0"}, body=b'{"detail": "no server"}')
    with (
        fake_api(busy) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match="no server") as caught,
    ):
        api.start({})

    assert caught.value.code is Exit.UNREACHABLE


def test_an_error_response_becomes_the_message() -> None:
    """The message is the problem's detail; `--json` has the whole problem."""
    problem = {"status": 422, "detail": "scenes[0].duration_s: must be more"}
    rejection = Answer(status=422, body=json.dumps(problem).encode())
    with (
        fake_api(rejection) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match=r"scene 1, duration_s") as caught,
    ):
        api.start({})

    assert caught.value.code is Exit.USAGE
    assert caught.value.detail == {"problem": problem}


def test_an_unknown_job_has_the_exit_code_of_every_command() -> None:
    """The message is the api's, which is that of the commands."""
    problem = {"status": 404, "detail": job_not_found("j")}
    with (
        fake_api(Answer(status=404, body=json.dumps(problem).encode())) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError) as caught,
    ):
        api.status("j")

    assert (caught.value.code, str(caught.value)) == (Exit.REFUSED, job_not_found("j"))


READYZ = {
    "ready": False,
    "checks": {
        "kafka": {"ok": True, "detail": "answers", "required": True},
        "postgres": {"ok": False, "detail": "PostgreSQL: connection refused", "required": True},
        "store": {"ok": False, "detail": "no answer within 3 s", "required": True},
        "progress": {"ok": False, "detail": "no commit for 90 s", "required": True},
        "provider": {"ok": False, "detail": "paused: no credit (2 scenes wait)", "required": False},
    },
}


def test_a_failing_api_is_reported_with_the_servers_that_are_unavailable() -> None:
    """`readyz` names them; the api's own message does not."""
    busy = Answer(status=503, headers={"Retry-After": "0"}, body=b'{"detail": "it is busy"}')
    ready = Answer(status=503, body=json.dumps(READYZ).encode())
    with fake_api(*[busy] * 5, ready) as fake, ApiClient(fake.url) as api:
        with pytest.raises(CommandError) as caught:
            api.status("j")
        problems = api.problems()

    assert problems == [
        "PostgreSQL is unavailable: connection refused",
        "the store is unavailable: no answer within 3 s",
        "progress: no commit for 90 s",
        "the provider is paused: no credit (2 scenes wait)",
    ]
    assert str(caught.value) == f"{'; '.join(problems)} (it is busy)"
    assert caught.value.code is Exit.UNREACHABLE


def test_an_api_without_readyz_has_no_known_problem() -> None:
    """An older api, or another program."""
    with fake_api(Answer(body=b"[]")) as fake, ApiClient(fake.url) as api:
        assert api.problems() == []


def test_an_unreachable_api_is_reported_with_what_to_do() -> None:
    """Nothing listens on port 1."""
    with ApiClient("http://127.0.0.1:1") as api:
        with pytest.raises(CommandError, match="segue up") as caught:
            api.status("j")
        assert not api.is_alive

    assert caught.value.code is Exit.UNREACHABLE


def test_another_server_is_not_taken_for_an_api() -> None:
    """It responds with 200, but not with the api's schema."""
    with (
        fake_api(Answer(body=b"<html>")) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match="is not a Segue api"),
    ):
        api.status("j")


def test_a_job_id_is_quoted_in_the_path() -> None:
    """Emoji, spaces and question marks stay in one path segment."""
    with fake_api(Answer()) as fake, ApiClient(fake.url) as api:
        with pytest.raises(CommandError):
            api.status("a b?🎬")

        assert fake.requests[0][1] == "/api/v3/audio/status/a%20b%3F%F0%9F%8E%AC"


def test_a_video_is_uploaded_byte_for_byte(tmp_path: Path) -> None:
    """The file is streamed in several blocks."""
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


def test_a_style_sample_is_uploaded_to_its_own_route(tmp_path: Path) -> None:
    """The file is sent byte for byte; unknown fields of the response are ignored."""
    song = tmp_path / "song.mp3"
    song.write_bytes(b"\xff\xfb\x00" * 1000)
    answer = {"style_audio": {"object": "styles/x"}, "duration_s": 3.0, "of_tomorrow": 1}
    with (
        fake_api(Answer(status=201, body=json.dumps(answer).encode())) as fake,
        ApiClient(fake.url) as api,
    ):
        assert api.upload_style(song).style_audio.object == "styles/x"
        assert fake.requests == [("POST", "/api/v3/audio/styles", song.read_bytes())]


def test_a_response_without_an_estimate_is_accepted() -> None:
    """A command may be newer than its api."""
    with fake_api(Answer(body=STARTED)) as fake, ApiClient(fake.url) as api:
        assert api.start({"job_id": "j"}).estimate is None


def test_a_download_returns_its_digest(tmp_path: Path) -> None:
    """The file is complete, and no temporary file is left."""
    data = b"\x01\x02" * 500_000
    with fake_api(Answer(body=data)) as fake, ApiClient(fake.url) as api:
        facts = api.download("/track", tmp_path / "track.mp3")

    assert (tmp_path / "track.mp3").read_bytes() == data
    assert facts["sha256"] == hashlib.sha256(data).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["track.mp3"]


def test_an_incomplete_download_leaves_no_file(tmp_path: Path) -> None:
    """A partial file could be taken for a complete one."""
    short = Answer(body=b"12345", headers={"Content-Length": "10"})
    with (
        fake_api(short) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError),
    ):
        api.download("/track", tmp_path / "track.mp3")

    assert not list(tmp_path.iterdir())


def test_an_invalid_url_is_rejected() -> None:
    """No request is sent."""
    with pytest.raises(CommandError, match="not a URL"):
        ApiClient("http://[bad")
