"""Tests of `segue score` and `segue status`, on a stack they start and on a running one."""

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.score.api_client import ApiClient
from services.api.operators import job_not_found
from shared.local_stack import find_stack
from shared.media.decode import decode
from shared.media.samples import SAMPLE_RATE_HZ
from tests.support.films import picture_packets, real_ffmpeg
from tests.support.stack_process import (
    STOP_S,
    a_stack,
    none_left,
    segue,
    segue_started,
    start_job,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SCENES = [
    {"description": "a calm lake at dawn", "duration_s": 1.7},
    {"description": "an exciting race", "start_s": 1.7, "end_s": 3.4, "mood": "exciting"},
]


@pytest.fixture
async def film(tmp_path: Path) -> Path:
    """Return a video of 3.4 seconds, in a folder whose name has a space."""
    path = tmp_path / "my films" / "film.mp4"
    path.parent.mkdir()
    source = ["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=30:duration=3.4"]
    await real_ffmpeg().run(["-v", "error", *source, "-c:v", "libx264", path])
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Return the scenes file of the film."""
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps({"scenes": SCENES}))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the data folder of a stack that runs for all tests of this module."""
    with a_stack(tmp_path_factory.mktemp("stack") / "home") as stack:
        stack.ready()
        yield stack.home


def test_one_command_scores_a_video_and_leaves_no_process(
    tmp_path: Path, film: Path, scenes: Path
) -> None:
    """No stack runs: the command starts one, and stops it."""
    home, out = tmp_path / "home", tmp_path / "out"

    result = segue("score", film, "--scenes", scenes, "--out", out, "--data-dir", home)

    assert result.returncode == 0, result.stderr
    assert none_left(home)
    report = json.loads((out / "report.json").read_text())
    track = (out / "track.mp3").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "scored.mp4",
        "track.mp3",
        "track.png",
    ]
    assert picture_packets(out / "scored.mp4") == picture_packets(film)
    assert decode(track).shape == (2, round(3.4 * SAMPLE_RATE_HZ))
    assert report["files"]["track.mp3"]["sha256"] == hashlib.sha256(track).hexdigest()
    assert [scene["origin"] for scene in report["progress"]["scenes"]] == ["fresh", "continued"]
    assert report["progress"]["scenes"][1]["description"] == "an exciting race"
    assert report["track"]["loudness_lufs"] == pytest.approx(-14, abs=0.5)
    assert "scene 2/2  continued" in result.stdout
    assert "\x1b" not in result.stdout, "output without a terminal has no control characters"


def test_a_running_stack_is_used_and_left_running(tmp_path: Path, scenes: Path, home: Path) -> None:
    """With `--json` standard output is only the report; `segue status` finds the job."""
    out = tmp_path / "out"

    result = segue(
        *("score", "--no-video", "--scenes", scenes, "--job-id", "über 🎬", "--out", out),
        *("--data-dir", home, "--prompt", "a harp", "--fade-duration", "0.5", "--json"),
    )
    shown = segue("status", "über 🎬", "--data-dir", home, "--json")

    report = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert report["asked"]["prompt"] == "a harp"
    assert sorted(path.name for path in out.iterdir()) == [
        "report.json",
        "track.mp3",
        "track.png",
    ]
    status = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert status["track"] == report["track"]
    assert not status["audio_status"]["merged_with_video"]


def test_a_failed_run_reports_the_reason_and_keeps_its_track(
    tmp_path: Path, film: Path, home: Path
) -> None:
    """Twelve seconds of music cannot be compressed into 3.4 seconds of video.

    `segue score` refuses it before the run; here another client of the api requested it.
    """
    scenes, out = tmp_path / "long.json", tmp_path / "out"
    scenes.write_text('[{"description": "a storm", "duration_s": 12.25}]')
    stack = find_stack(home)
    assert stack is not None
    with ApiClient(stack.api_url) as api:
        video = api.upload(film).video.model_dump(exclude_none=True)
    params = {"merge_with_video": True, "sync_mode": "compress"}
    start_job(stack.api_url, "storm", durations_s=[12.25], video=video, audio_params=params)

    refused = segue("score", film, "--scenes", scenes, "--sync-mode", "compress", "--out", out)
    result = segue("fetch", "storm", "--out", out, "--data-dir", home)

    assert refused.returncode == 2
    assert "--sync-mode compress allows a ratio of 0.5 to 2.0" in refused.stderr

    report = json.loads((out / "report.json").read_text())
    assert result.returncode == 1
    assert report["failure"]["stage"] == "mux"
    assert report["failure"]["message"] in result.stderr
    assert str(out / "track.mp3") in result.stderr
    assert decode((out / "track.mp3").read_bytes()).shape[1] == 12.25 * SAMPLE_RATE_HZ
    assert not (out / "scored.mp4").exists()


def test_one_scene_is_regenerated_and_every_result_of_the_film_is_kept(
    tmp_path: Path, film: Path, scenes: Path, home: Path
) -> None:
    """The newest result is in the folder, the earlier one in `runs`."""
    out = tmp_path / "out"
    shared = ("--data-dir", home, "--out")

    first = segue("score", film, "--scenes", scenes, *shared, out)
    track = (out / "track.mp3").read_bytes()
    second = segue("score", film, "--scene", "2", *shared, out)

    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    report = json.loads((out / "report.json").read_text())
    (earlier,) = (out / "runs").iterdir()
    assert earlier.name == f"{report['job_id']}-run-1"
    assert (earlier / "track.mp3").read_bytes() == track != (out / "track.mp3").read_bytes()
    assert (report["run"], report["progress"]["scenes"][0]["warnings"]) == (2, ["kept from run 1"])
    assert report["progress"]["scenes"][1]["description"] == "an exciting race"
    assert "regenerating scene 2 of 2 with " in second.stdout
    assert picture_packets(out / "scored.mp4") == picture_packets(film)


def test_a_request_that_the_api_rejects_is_invalid_input(tmp_path: Path, home: Path) -> None:
    """A scene that is too long passes the check of the file, not the api's."""
    scenes = tmp_path / "scenes.json"
    scenes.write_text('[{"duration_s": 3000}]')

    result = segue("score", "--no-video", "--scenes", scenes, "--data-dir", home, "--out", tmp_path)

    assert result.returncode == 2
    assert "scene 1, duration_s" in result.stderr


def test_a_run_over_its_cost_limit_is_rejected_by_the_stack(tmp_path: Path, scenes: Path) -> None:
    """The api knows the price of its provider; the dry run gave the same reason."""
    command: list[str | Path] = [
        "score",
        "--no-video",
        "--scenes",
        scenes,
        "--provider",
        "fake-replicate",
    ]
    command += ["--max-cost", "0.001", "--data-dir", tmp_path / "home", "--out", tmp_path / "out"]

    planned = segue(*command, "--dry-run", "--json")
    result = segue(*command)

    plan = json.loads(planned.stdout)
    assert (planned.returncode, plan["verdict"]) == (0, "refused")
    assert result.returncode == 2
    assert plan["why"] in result.stderr
    assert not (tmp_path / "out" / "report.json").exists()
    assert none_left(tmp_path / "home")


def test_an_unknown_job_is_reported_by_its_id(home: Path) -> None:
    """Message and exit code are those of every command."""
    result = segue("status", "unknown-job", "--data-dir", home)

    assert result.returncode == 4
    assert result.stderr == f"segue: {job_not_found('unknown-job')}\n"


def test_a_provider_that_the_running_stack_does_not_use_is_rejected(
    scenes: Path, home: Path
) -> None:
    """The running stack keeps its own provider."""
    result = segue(
        *("score", "--no-video", "--scenes", scenes, "--data-dir", home, "--provider", "silence")
    )

    assert result.returncode == 2
    assert "synth" in result.stderr


def test_an_interrupted_score_prints_the_command_to_resume_and_stops_its_stack(
    tmp_path: Path,
) -> None:
    """After Ctrl-C: exit code 130, no process, and the job's id in the message."""
    scenes, home = tmp_path / "scenes.json", tmp_path / "home"
    scenes.write_text(json.dumps([{"description": "a lake", "duration_s": 10.5}] * 40))

    with segue_started(
        *("score", "--no-video", "--scenes", scenes, "--job-id", "long one"),
        *("--out", tmp_path / "out", "--data-dir", home),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("scene  2/40"):
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=STOP_S)

    assert process.returncode == 130
    assert "segue status 'long one' --watch" in errors
    assert "segue fetch 'long one' --out " in errors
    assert none_left(home)
