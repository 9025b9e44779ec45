"""What `segue score` asks for, and what it refuses before it asks."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from ops.score.command import VIDEO, ScoreRequest, check, score
from shared.contract.params import OnMaxCost, Scene
from tests.fakes.api import Answer, fake_api

SCENES = (Scene(duration_s=1.7, description="a lake"), Scene(duration_s=2.3))
QUIET = Console(quiet=True)


def test_the_same_video_and_wishes_have_the_same_job(tmp_path: Path) -> None:
    """So a second call finds the first one's work."""
    video = tmp_path / "my film.mp4"
    video.write_bytes(b"pictures")

    first = ScoreRequest(video=video, scenes=SCENES).named_job

    assert first == ScoreRequest(video=video, scenes=SCENES).named_job
    assert first.startswith("my-film-")


def test_another_wish_or_another_picture_is_another_job(tmp_path: Path) -> None:
    """Two of them at once must not supersede each other."""
    video = tmp_path / "film.mp4"
    video.write_bytes(b"pictures")
    plain = ScoreRequest(video=video, scenes=SCENES).named_job
    wished = ScoreRequest(video=video, scenes=SCENES, audio_params={"prompt": "harp"}).named_job
    video.write_bytes(b"other pictures")
    changed = ScoreRequest(video=video, scenes=SCENES).named_job

    assert len({plain, wished, changed}) == 3


def test_a_video_asks_to_be_put_under_its_track_and_none_does_not() -> None:
    """`--no-video` is a track alone."""
    body = ScoreRequest(video=None, scenes=SCENES).body("j")

    assert body["audio_params"] == {"merge_with_video": False}
    assert [scene["duration_s"] for scene in body["scenes"]] == [1.7, 2.3]


def test_a_text_file_is_not_scored(tmp_path: Path) -> None:
    """It is told before any stack starts."""
    video = tmp_path / "film.mp4"
    video.write_text("not a film")

    with pytest.raises(CommandError, match=r"film\.mp4: not a video") as caught:
        check(ScoreRequest(video=video, scenes=SCENES), QUIET)

    assert caught.value.code is Exit.USAGE


def test_a_result_never_takes_the_place_of_its_own_video(tmp_path: Path) -> None:
    """Scoring out/scored.mp4 into out would lose it."""
    video = tmp_path / VIDEO
    video.write_bytes(b"pictures")
    request = ScoreRequest(video=video, scenes=SCENES)

    with (
        ApiClient("http://127.0.0.1:1") as api,
        pytest.raises(CommandError, match="change --out"),
    ):
        score(api, request, out=tmp_path, within_s=1, console=QUIET)

    assert video.read_bytes() == b"pictures"


def test_a_style_sample_of_this_machine_is_handed_in_and_named(tmp_path: Path) -> None:
    """The run begins with the object that the api gave it."""
    song = tmp_path / "song.mp3"
    song.write_bytes(b"music")
    taken = Answer(status=201, body=b'{"style_audio": {"object": "styles/x", "url": null}}')
    refused = Answer(status=422, body=b'{"detail": "enough seen"}')
    request = ScoreRequest.of(
        video=None, scenes=SCENES, wishes={"max_cost": 1.5}, style=str(song), job_id=None
    )

    with (
        fake_api(taken, refused) as fake,
        ApiClient(fake.url) as api,
        pytest.raises(CommandError, match="enough seen"),
    ):
        score(api, request, out=tmp_path / "out", within_s=1, console=QUIET)

    (first, second) = fake.requests
    assert first == ("POST", "/api/v3/audio/styles", b"music")
    assert json.loads(second[2])["audio_params"] == {
        "max_cost": 1.5,
        "merge_with_video": False,
        "style_audio": {"object": "styles/x"},
    }


def test_a_style_sample_elsewhere_is_named_by_its_url() -> None:
    """Nothing is handed in for it."""
    url = "HTTPS://x.example/song.mp3"
    wishes = {"on_max_cost": OnMaxCost.ERROR_STRATEGY, "use_cache": False, "prompt": None}

    request = ScoreRequest.of(video=None, scenes=SCENES, wishes=wishes, style=url, job_id=None)

    assert request.style is None
    assert request.audio_params == {
        "on_max_cost": "error_strategy",
        "use_cache": False,
        "style_audio": {"url": url},
    }


def test_another_style_sample_is_another_job(tmp_path: Path) -> None:
    """By its content, not by its name."""
    song = tmp_path / "song.mp3"
    names = set()
    for content in (b"one", b"two"):
        song.write_bytes(content)
        names.add(ScoreRequest(video=None, scenes=SCENES, style=song).named_job)
    names.add(ScoreRequest(video=None, scenes=SCENES).named_job)

    assert len(names) == 3


def test_a_style_sample_that_is_no_file_is_refused_by_its_option(tmp_path: Path) -> None:
    """Before anything is handed in."""
    for place in (tmp_path, tmp_path / "nowhere.mp3"):
        request = ScoreRequest(video=None, scenes=SCENES, style=place)
        with pytest.raises(CommandError, match="--style: "):
            check(request, QUIET)


@pytest.mark.parametrize("job_id", ["a/b", "x" * 201, ""])
def test_a_job_id_that_is_none_is_refused_by_its_option(job_id: str) -> None:
    """The api would refuse it later, without naming the option."""
    request = ScoreRequest(video=None, scenes=SCENES, job_id=job_id)

    with pytest.raises(CommandError, match="--job-id: "):
        check(request, QUIET)
