"""The command line: what a user types wrongly, and what is answered."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ops.__main__ import app
from ops.cli.exit_codes import HELP, Exit

SCENES = '[{"description": "a lake", "duration_s": 1.7}]'


def _segue(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A good file of scenes."""
    place = tmp_path / "scenes.json"
    place.write_text(SCENES)
    return place


def test_the_help_names_the_commands_and_the_exit_codes() -> None:
    """Scripts are written from it."""
    told = " ".join(_segue("--help").output.split())

    assert HELP in told
    assert all(name in told for name in ("up", "score", "status", "doctor", "demo"))


@pytest.mark.parametrize("video", ["nowhere.mp4", "."])
def test_a_video_that_cannot_be_read_is_told_by_its_name(video: str, scenes: Path) -> None:
    """Nothing was started for it."""
    result = _segue("score", scenes.parent / video, "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "cannot be read" in result.stderr


def test_a_text_file_in_the_place_of_the_video_is_told(tmp_path: Path, scenes: Path) -> None:
    """And what would be right."""
    (tmp_path / "film.mp4").write_text("hello")

    result = _segue("score", tmp_path / "film.mp4", "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "the file is text" in result.stderr


def test_a_score_without_a_video_asks_for_one(scenes: Path) -> None:
    """Or for the option that does without."""
    result = _segue("score", "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "--no-video" in result.stderr


def test_with_json_an_error_is_an_object_on_standard_output(tmp_path: Path) -> None:
    """A script reads one document, whatever happened."""
    bad = tmp_path / "scenes.json"
    bad.write_text('[{"duration_s": -1}]')

    result = _segue("score", "--no-video", "--scenes", bad, "--json")

    told = json.loads(result.stdout)
    assert result.exit_code == told["exit_code"] == Exit.USAGE
    assert "scenes[0].duration_s" in told["error"]


@pytest.mark.parametrize("option", [["--sync-mode", "warp"], ["--fade-duration", "long"]])
def test_an_option_that_cannot_be_is_refused(option: list[str], scenes: Path) -> None:
    """By the name of the option."""
    result = _segue("score", "--no-video", "--scenes", scenes, *option)

    assert result.exit_code == Exit.USAGE
    assert option[0] in result.stderr


def test_a_status_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    """The data folder is empty."""
    result = _segue("status", "j", "--data-dir", tmp_path)

    assert result.exit_code == Exit.UNREACHABLE
    assert "segue up" in result.stderr


def test_an_api_that_does_not_answer_is_unreachable(scenes: Path, tmp_path: Path) -> None:
    """Nobody listens on port 1."""
    nowhere = ["--api", "http://127.0.0.1:1", "--out", str(tmp_path / "out")]

    result = _segue("score", "--no-video", "--scenes", scenes, *nowhere)

    assert result.exit_code == Exit.UNREACHABLE


def test_an_address_without_http_is_a_wrong_setting(tmp_path: Path) -> None:
    """Named as the setting it is."""
    result = _segue("status", "j", "--api", "localhost:4000")

    assert result.exit_code == Exit.USAGE
    assert "api_url" in result.stderr.lower()


def test_a_demo_with_a_video_wants_its_scenes(tmp_path: Path) -> None:
    """They cannot be guessed."""
    result = _segue("demo", "--video", tmp_path / "film.mp4", "--out", tmp_path / "out")

    assert result.exit_code == Exit.USAGE
    assert "both a video and its scenes" in result.stderr


def test_the_doctor_finds_this_machine_well() -> None:
    """The tests run on it: Python, ffmpeg with its encoders and the servers are there."""
    result = _segue("doctor", "--json")

    told = json.loads(result.stdout)
    found = {check["name"]: check for check in told["checks"]}
    assert result.exit_code == Exit.OK
    assert told["ok"] is True
    assert {"Python", "ffmpeg", "ffmpeg encoders", "PyAV", "port", "api", "music"} <= set(found)
    assert all(check["advice"] for check in told["checks"] if check["state"] != "ok")


def test_the_doctor_says_what_to_do_about_an_ffmpeg_that_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting names a program that is not there."""
    monkeypatch.setenv("FFMPEG", "/nowhere/ffmpeg")

    result = _segue("doctor")

    assert result.exit_code == Exit.FAILED
    assert "/nowhere/ffmpeg" in result.stdout
    assert "make setup" in result.stdout
