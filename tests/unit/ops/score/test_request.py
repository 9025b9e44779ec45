"""Tests of ops/score/request.py: the request of `segue score`, and what is rejected early."""

from pathlib import Path

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.score.request import ScoreRequest, check_request
from shared.contract.params import OnMaxCost, Scene

SCENES = (Scene(duration_s=1.7, description="a lake"), Scene(duration_s=2.3))
QUIET = Console(quiet=True)


def test_the_same_video_and_parameters_have_the_same_job_id(tmp_path: Path) -> None:
    """A repeated command finds the work of the first."""
    video = tmp_path / "my film.mp4"
    video.write_bytes(b"pictures")

    first = ScoreRequest(video=video, scenes=SCENES).job_id

    assert first == ScoreRequest(video=video, scenes=SCENES).job_id
    assert first.startswith("my-film-")


def test_another_parameter_or_video_has_another_job_id(tmp_path: Path) -> None:
    """Two different requests do not supersede each other."""
    video = tmp_path / "film.mp4"
    video.write_bytes(b"pictures")
    plain = ScoreRequest(video=video, scenes=SCENES).job_id
    prompted = ScoreRequest(video=video, scenes=SCENES, audio_params={"prompt": "harp"}).job_id
    video.write_bytes(b"other pictures")
    changed = ScoreRequest(video=video, scenes=SCENES).job_id

    assert len({plain, prompted, changed}) == 3


def test_a_request_without_a_video_does_not_mux() -> None:
    """`--no-video` makes only the track."""
    body = ScoreRequest(video=None, scenes=SCENES).body("j")

    assert body["audio_params"] == {"merge_with_video": False}
    assert [scene["duration_s"] for scene in body["scenes"]] == [1.7, 2.3]


def test_a_text_file_is_rejected_as_video(tmp_path: Path) -> None:
    """The check runs before a stack starts."""
    video = tmp_path / "film.mp4"
    video.write_text("not a film")

    with pytest.raises(CommandError, match=r"film\.mp4: not a video") as caught:
        check_request(ScoreRequest(video=video, scenes=SCENES), QUIET)

    assert caught.value.code is Exit.USAGE


def test_a_style_sample_at_a_url_is_passed_on() -> None:
    """The URL becomes an audio parameter; nothing is uploaded."""
    url = "HTTPS://x.example/song.mp3"
    params = {"on_max_cost": OnMaxCost.ERROR_STRATEGY, "use_cache": False, "prompt": None}

    request = ScoreRequest.of(
        video=None, scenes=SCENES, audio_params=params, style=url, job_id=None
    )

    assert request.style is None
    assert request.audio_params == {
        "on_max_cost": "error_strategy",
        "use_cache": False,
        "style_audio": {"url": url},
    }


def test_another_style_sample_has_another_job_id(tmp_path: Path) -> None:
    """The content counts, not the file name."""
    song = tmp_path / "song.mp3"
    job_ids = set()
    for content in (b"one", b"two"):
        song.write_bytes(content)
        job_ids.add(ScoreRequest(video=None, scenes=SCENES, style=song).job_id)
    job_ids.add(ScoreRequest(video=None, scenes=SCENES).job_id)

    assert len(job_ids) == 3


def test_a_style_sample_that_is_not_a_file_is_rejected(tmp_path: Path) -> None:
    """The error names the option, and nothing was uploaded."""
    for path in (tmp_path, tmp_path / "nowhere.mp3"):
        request = ScoreRequest(video=None, scenes=SCENES, style=path)
        with pytest.raises(CommandError, match="--style: "):
            check_request(request, QUIET)


@pytest.mark.parametrize("job_id", ["a/b", "x" * 201, ""])
def test_an_invalid_job_id_is_rejected(job_id: str) -> None:
    """The error names the option, which the api's would not."""
    request = ScoreRequest(video=None, scenes=SCENES, given_job_id=job_id)

    with pytest.raises(CommandError, match="--job-id: "):
        check_request(request, QUIET)
