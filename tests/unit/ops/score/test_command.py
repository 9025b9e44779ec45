"""Tests of ops/score/command.py: what `segue score` sends and writes."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from ops.cli.exit_codes import CommandError, Exit
from ops.score.api_client import ApiClient
from ops.score.command import run_score
from ops.score.outputs import VIDEO, open_output
from ops.score.request import ScoreRequest
from ops.score.results import resumable
from shared.contract.params import Scene
from tests.fakes.api import Answer, fake_api

SCENES = (Scene(duration_s=1.7, description="a lake"), Scene(duration_s=2.3))
QUIET = Console(quiet=True)


def test_a_result_does_not_overwrite_its_own_video(tmp_path: Path) -> None:
    """Scoring out/scored.mp4 into out is refused, and the video stays."""
    video = tmp_path / VIDEO
    video.write_bytes(b"pictures")
    request = ScoreRequest(video=video, scenes=SCENES)

    with (
        pytest.raises(CommandError, match="change --out"),
        open_output(tmp_path, inputs=request.inputs, force=True),
    ):
        pass

    assert video.read_bytes() == b"pictures"


def test_files_that_cannot_be_written_can_be_fetched_later(tmp_path: Path) -> None:
    """A full disk after a paid run, and Ctrl-C: the message has the command."""
    for problem, code in (
        (OSError(28, "No space left on device"), Exit.FAILED),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
    ):
        with pytest.raises(CommandError) as caught, resumable("job 1", tmp_path / "o [x]"):
            raise problem

        assert caught.value.code is code
        assert f"segue fetch 'job 1' --out '{tmp_path}/o [x]'" in str(caught.value)


def test_a_local_style_sample_is_uploaded_and_named_in_the_request(tmp_path: Path) -> None:
    """The request names the object that the api returned for it."""
    song = tmp_path / "song.mp3"
    song.write_bytes(b"music")
    uploaded = Answer(status=201, body=b'{"style_audio": {"object": "styles/x", "url": null}}')
    rejected = Answer(status=422, body=b'{"detail": "enough seen"}')
    request = ScoreRequest.of(
        video=None, scenes=SCENES, audio_params={"max_cost": 1.5}, style=str(song), job_id=None
    )

    with (
        fake_api(uploaded, rejected) as fake,
        ApiClient(fake.url) as api,
        open_output(tmp_path / "out") as output,
        pytest.raises(CommandError, match="enough seen"),
    ):
        run_score(api, request, output=output, timeout_s=1, console=QUIET)

    (upload, start) = fake.requests
    assert upload == ("POST", "/api/v3/audio/styles", b"music")
    assert json.loads(start[2])["audio_params"] == {
        "max_cost": 1.5,
        "merge_with_video": False,
        "style_audio": {"object": "styles/x"},
    }
