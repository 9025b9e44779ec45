"""`segue score --dry-run`: what would be done, and what it would cost, without doing it."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from embedded.settings import StackProvider, StackSettings
from ops.__main__ import app
from ops.cli.exit_codes import Exit
from ops.score.dry_run import PROVIDERS, STACK_PROVIDER
from shared.clock import SystemClock
from shared.local_stack import RunningStack, write_stack_files
from tests.fakes.api import Answer, fake_api

SCENES = [
    {"description": "a calm lake", "duration_s": 1.7},
    {"mood": "dramatic", "duration_s": 2.3},
    {"prompt": "a harp", "duration_s": 12.25},
]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of scenes, where the command runs."""
    (tmp_path / "scenes.json").write_text(json.dumps(SCENES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGUE_DATA_DIR", str(tmp_path / "home"))
    return tmp_path


def _segue(*args: str) -> Result:
    words = ["score", "--no-video", "--scenes", "scenes.json", "--dry-run", *args]
    return CliRunner().invoke(app, words)


def _plan(*args: str) -> dict[str, Any]:
    result = _segue(*args, "--json")
    assert result.exit_code == Exit.OK, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_a_dry_run_asks_nobody_and_leaves_nothing(room: Path) -> None:
    """No request, no stack, no file: the folder is as it was."""
    (room / "song.mp3").write_bytes(b"music")
    before = sorted(path.name for path in room.rglob("*"))
    with fake_api(Answer()) as fake:
        elsewhere = _segue("--api", fake.url, "--style", "song.mp3")

    here = _segue("--style", "song.mp3", "--out", "out")

    assert fake.requests == []
    assert (elsewhere.exit_code, here.exit_code) == (Exit.OK, Exit.OK)
    assert "may have others" in elsewhere.stdout
    assert sorted(path.name for path in room.rglob("*")) == before


def test_a_plan_tells_of_each_scene_what_is_asked_and_what_it_costs(room: Path) -> None:
    """Whole seconds, the window, the prompt and where it comes from."""
    told = _plan("--provider", "replicate")
    scenes = [(s["asked_s"], s["window_s"], s["prompt_from"]) for s in told["scenes"]]

    assert scenes == [
        (2, 0, "its description"),
        (4, 1, "its mood"),
        (14, 1, "the scene"),
    ]
    assert told["scenes"][2]["prompt"] == "a harp"
    assert "dramatic" in told["scenes"][1]["prompt"]
    assert told["estimate"] == {
        "cost_usd": 0.056,
        "music_s": 20,
        "seconds": 49.0,
        "provider": "replicate",
    }
    assert sum(s["cost_usd"] for s in told["scenes"]) == pytest.approx(0.056)
    assert not room.joinpath("home").exists()


@pytest.mark.usefixtures("room")
def test_a_style_sample_gives_the_first_scene_a_window() -> None:
    """As the api counts it."""
    told = _plan("--provider", "replicate", "--style", "https://x.example/a.mp3")

    assert [scene["window_s"] for scene in told["scenes"]][:2] == [5, 1]
    assert told["estimate"]["music_s"] == 25


@pytest.mark.usefixtures("room")
def test_a_run_over_its_cap_is_told_as_refused_and_that_is_no_error() -> None:
    """The answer was asked for; it is a good one."""
    told = _plan("--provider", "replicate", "--max-cost", "0.02")

    assert (told["verdict"], told["scenes_paid"]) == ("refused", 0)
    assert told["max_cost"] == 0.02
    assert "audio_params.max_cost" in told["why"]


@pytest.mark.usefixtures("room")
def test_a_run_that_ends_with_the_error_strategy_says_where() -> None:
    """0.0056 and 0.0112 are within 0.03, 0.0392 more are not."""
    wishes = ["--max-cost", "0.03", "--on-max-cost", "error_strategy"]
    told = _plan("--provider", "replicate", *wishes)

    assert (told["verdict"], told["scenes_paid"]) == ("begins", 2)
    assert "2 of 3 scenes, then continue_with_silence" in told["why"]


def test_the_settings_of_the_api_hold_in_a_plan(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cap, window and price."""
    monkeypatch.setenv("AUDIO_MAX_COST", "0.5")
    monkeypatch.setenv("MUSIC_PROVIDER", "replicate")
    monkeypatch.setenv("SEGUE_WINDOW_S", "3")
    monkeypatch.setenv("SEGUE_REPLICATE_USD_PER_S", "0.01")
    told = _plan()

    assert (told["max_cost"], told["verdict"]) == (0.5, "begins")
    assert (told["provider"], told["estimate"]["music_s"]) == ("replicate", 24)
    assert told["estimate"]["cost_usd"] == 0.48
    assert room.is_dir()


def test_a_stack_that_runs_makes_the_music(room: Path) -> None:
    """Its provider is the plan's; asking for another one is told."""
    home = room / "home"
    home.mkdir()
    moment = SystemClock().now()
    url = "http://127.0.0.1:1"
    write_stack_files(
        home,
        RunningStack(pid=os.getpid(), api_url=url, provider="silence", started_at=moment),
    )

    assert _plan()["provider"] == "silence"
    other = _plan("--provider", "replicate")
    assert other["provider"] == "replicate"
    assert any(url in note and "silence" in note for note in other["notes"])


@pytest.mark.usefixtures("room")
def test_a_plan_knows_the_providers_of_the_stack_and_which_it_takes_by_itself() -> None:
    """The command may not import the stack, so this holds the two together."""
    default = StackSettings.model_fields["provider"].default

    assert set(PROVIDERS) == set(get_args(StackProvider))
    assert default == STACK_PROVIDER == _plan()["provider"]
    assert _plan("--provider", "fake-replicate")["estimate"]["cost_usd"] > 0


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--provider", "orchestra"], "orchestra"),
        (["--max-cost", "-1"], "--max-cost"),
        (["--fade-duration", "99"], "audio_params.fade_duration"),
        (["--style", "nowhere.mp3"], "--style"),
        (["--on-max-cost", "panic"], "--on-max-cost"),
    ],
)
def test_what_is_wrong_is_told_as_for_a_real_run(wrong: list[str], told: str) -> None:
    """Exit code 2, and the field or option."""
    result = _segue(*wrong)

    assert result.exit_code == Exit.USAGE
    assert told in result.stderr


def test_a_scene_that_the_api_would_refuse_is_refused(room: Path) -> None:
    """By the limits of this machine's settings."""
    (room / "scenes.json").write_text('[{"duration_s": 3000}]')
    result = _segue()

    assert result.exit_code == Exit.USAGE
    assert "scenes[0].duration_s" in result.stderr


@pytest.mark.usefixtures("room")
def test_people_read_the_same_plan_in_lines() -> None:
    """Scenes, estimate, cap, verdict."""
    told = _segue("--provider", "replicate", "--max-cost", "0.05", "--no-cache").stdout

    for said in (
        "asks for 4 s (1 s of window), $0.0112",
        "$0.056 for 20 s",
        "cap: $0.05",
        "refused",
    ):
        assert said in told
