"""Tests of the command line: its help, and how invalid input is reported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from ops.__main__ import GROUPS, app
from ops.cli.exit_codes import HELP, Exit
from tests.support.film_clips import film_clips

SCENES = '[{"description": "a lake", "duration_s": 1.7}]'


def _segue(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Return a valid scenes file."""
    path = tmp_path / "scenes.json"
    path.write_text(SCENES)
    return path


def test_the_help_lists_the_commands_and_the_exit_codes() -> None:
    """Scripts are written from it."""
    output = " ".join(_segue("--help").output.split())

    assert HELP in output
    assert all(name in output for name in ("up", "score", "status", "doctor", "demo"))


def test_every_command_is_in_a_group_of_the_help() -> None:
    """Groups and commands are in the order in which a user needs them."""
    group: Any = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for name in group.list_commands(None):
        command = group.commands[name]
        panels.setdefault(command.rich_help_panel, []).append(name)

    assert panels == {
        "Score a film": ["demo", "score", "scenes", "fetch"],
        "Follow jobs": ["status", "jobs", "job"],
        "Operate": [
            *("watch", "lag", "cancel", "redrive", "replay", "rebuild"),
            *("dlq", "store"),
        ],
        "Servers and stacks": ["up", "doctor", "prepare", "topics", "acls"],
        "Develop": ["schemas"],
    }
    assert list(panels) == list(GROUPS)
    output = _segue("--help").output
    titles = [output.index(f" {title} ") for title in GROUPS]
    assert titles == sorted(titles)


def test_the_help_describes_every_command_in_one_sentence() -> None:
    """Each ends with its only period."""
    group: Any = typer.main.get_command(app)

    for name in group.list_commands(None):
        command = group.commands[name]
        sentence = command.help.partition("\n\n")[0]
        assert sentence.endswith("."), name
        assert ". " not in sentence, name


def test_schemas_without_a_source_checkout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image and a wheel have no `tools`."""
    monkeypatch.setitem(sys.modules, "tools.contract", None)
    monkeypatch.delitem(sys.modules, "tools.contract.schemas", raising=False)

    result = _segue("schemas")

    assert result.exit_code == Exit.REFUSED
    assert "segue schemas: works in a source checkout only" in result.stderr


@pytest.mark.parametrize("video", ["nowhere.mp4", "."])
def test_a_video_that_cannot_be_read_is_reported(video: str, scenes: Path) -> None:
    """No stack is started."""
    result = _segue("score", scenes.parent / video, "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "cannot be read" in result.stderr


def test_a_text_file_given_as_the_video_is_reported(tmp_path: Path, scenes: Path) -> None:
    """The error says what the file is."""
    (tmp_path / "film.mp4").write_text("hello")

    result = _segue("score", tmp_path / "film.mp4", "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "the file is text" in result.stderr


def test_a_missing_video_is_reported_with_what_to_do(scenes: Path) -> None:
    """The error names the option that needs no video."""
    result = _segue("score", "--scenes", scenes)

    assert result.exit_code == Exit.USAGE
    assert "--no-video" in result.stderr


def test_with_json_an_error_is_an_object_on_standard_output(tmp_path: Path) -> None:
    """A script reads one document, also after an error."""
    bad = tmp_path / "scenes.json"
    bad.write_text('[{"duration_s": -1}]')

    result = _segue("score", "--no-video", "--scenes", bad, "--json")

    report = json.loads(result.stdout)
    assert result.exit_code == report["exit_code"] == Exit.USAGE
    assert "scene 1, duration_s" in report["error"]


@pytest.mark.parametrize("option", [["--sync-mode", "warp"], ["--fade-duration", "long"]])
def test_an_invalid_option_value_is_rejected(option: list[str], scenes: Path) -> None:
    """The error names the option."""
    result = _segue("score", "--no-video", "--scenes", scenes, *option)

    assert result.exit_code == Exit.USAGE
    assert option[0] in result.stderr


def test_status_without_a_stack_says_how_to_start_one(tmp_path: Path) -> None:
    """The data folder is empty."""
    result = _segue("status", "j", "--data-dir", tmp_path)

    assert result.exit_code == Exit.UNREACHABLE
    assert 'No stack is running here. Start one with "segue up", or ' in result.stderr


def test_an_unreachable_api_has_its_exit_code(scenes: Path, tmp_path: Path) -> None:
    """Nothing listens on port 1."""
    nowhere = ["--api", "http://127.0.0.1:1", "--out", str(tmp_path / "out")]

    result = _segue("score", "--no-video", "--scenes", scenes, *nowhere)

    assert result.exit_code == Exit.UNREACHABLE


def test_an_api_url_without_http_is_rejected() -> None:
    """The error names the setting."""
    result = _segue("status", "j", "--api", "localhost:4000")

    assert result.exit_code == Exit.USAGE
    assert "api_url" in result.stderr.lower()


def test_demo_with_scenes_needs_their_video(tmp_path: Path) -> None:
    """Scenes of a given video can be detected; a video of given scenes cannot be made."""
    result = _segue("demo", "--scenes", tmp_path / "scenes.json", "--out", tmp_path / "out")

    assert result.exit_code == Exit.USAGE
    assert "--scenes was given without --video; name the film, too" in result.stderr


def test_a_demo_never_replaces_the_users_files(tmp_path: Path) -> None:
    """The demo makes a video and a scenes file, and removes the data of its stack."""
    for name in ("video.mp4", "scenes.json", "track.png", ".stack/notes.txt"):
        folder = tmp_path / name.replace("/", "-")
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("the user's")

        result = _segue("demo", "--out", folder)

        assert result.exit_code == Exit.USAGE
        assert "change --out" in result.stderr
        assert [found.name for found in folder.rglob("*") if found.is_file()] == [path.name]
        assert path.read_text() == "the user's"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scene", "2"], "has no result of segue; name its folder with --out, or the job"),
        (["--scene", "0"], "--scene"),
        (["--scene", "2", "--prompt", "x"], "leave out --prompt"),
        (["--scene", "2", "--scenes", "s.json", "--dry-run"], "leave out --scenes, --dry-run"),
        ([], "no scenes and no film were given"),
    ],
)
def test_a_scene_to_regenerate_needs_an_earlier_result_and_no_other_parameter(
    tmp_path: Path, options: list[str], message: str
) -> None:
    """No stack is started, and no folder is created."""
    out = tmp_path / "out"

    result = _segue("score", "--no-video", *options, "--out", out, "--data-dir", tmp_path / "home")

    assert result.exit_code == Exit.USAGE
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_newest_result_must_be_of_the_same_film(tmp_path: Path) -> None:
    """Another film of the same name has the same default folder."""
    film = film_clips().bikes
    report = {"job_id": "j", "run": 1, "files": {}, "report": "r", "api_url": "http://x"}
    other = {"path": "other/final.mp4", "sha256": "0" * 64}
    (tmp_path / "report.json").write_text(json.dumps({**report, "film": other}))

    result = _segue("score", film, "--scene", "1", "--out", tmp_path, "--data-dir", tmp_path)

    assert result.exit_code == Exit.USAGE
    assert "is of another film (other/final.mp4)" in result.stderr


def test_a_film_that_is_not_muxed_is_still_an_input(tmp_path: Path, scenes: Path) -> None:
    """`--no-video` with a film named `scored.mp4` in the output folder."""
    film = tmp_path / "scored.mp4"
    film.write_bytes(b"film")

    result = _segue("score", film, "--no-video", "--scenes", scenes, "--out", tmp_path, "--force")

    assert result.exit_code == Exit.USAGE
    assert "would be overwritten by its own result scored.mp4" in result.stderr
    assert film.read_bytes() == b"film"


def test_doctor_passes_on_this_machine() -> None:
    """Python, ffmpeg with its encoders and the servers are installed."""
    result = _segue("doctor", "--json")

    report = json.loads(result.stdout)
    names = {check["name"] for check in report["checks"]}
    assert result.exit_code == Exit.OK
    assert report["ok"] is True
    assert {"Python", "ffmpeg", "ffmpeg encoders", "PyAV", "port", "api", "music"} <= names
    assert all(check["advice"] for check in report["checks"] if check["state"] != "ok")


def test_doctor_says_what_to_do_about_a_missing_ffmpeg(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting names a program that does not exist."""
    monkeypatch.setenv("FFMPEG", "/nowhere/ffmpeg")

    result = _segue("doctor")

    assert result.exit_code == Exit.FAILED
    assert "/nowhere/ffmpeg" in result.stdout
    assert "make setup" in result.stdout
