"""Tests of `segue score --dry-run`: the plan and its cost, without doing anything."""

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

from embedded.settings import StackSettings
from ops.__main__ import app
from ops.cli.exit_codes import Exit
from shared.clock import SystemClock
from shared.local_stack import RunningStack, lock_data_dir, write_stack_files
from shared.music_providers import PROVIDERS, StackProvider
from tests.fakes.api import Answer, fake_api

SCENES = [
    {"description": "a calm lake", "duration_s": 1.7},
    {"mood": "dramatic", "duration_s": 2.3},
    {"prompt": "a harp", "duration_s": 12.25},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of the command, with a scenes file."""
    (tmp_path / "scenes.json").write_text(json.dumps(SCENES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGUE_DATA_DIR", str(tmp_path / "home"))
    return tmp_path


def _segue(*args: str) -> Result:
    command = ["score", "--no-video", "--scenes", "scenes.json", "--dry-run", *args]
    return CliRunner().invoke(app, command)


def _plan(*args: str) -> dict[str, Any]:
    result = _segue(*args, "--json")
    assert result.exit_code == Exit.OK, result.output
    planned: dict[str, Any] = json.loads(result.stdout)
    return planned


def test_a_dry_run_sends_and_writes_nothing(folder: Path) -> None:
    """No request is sent, no stack starts, no file changes."""
    (folder / "song.mp3").write_bytes(b"music")
    before = sorted(path.name for path in folder.rglob("*"))
    with fake_api(Answer()) as fake:
        elsewhere = _segue("--api", fake.url, "--style", "song.mp3")

    here = _segue("--style", "song.mp3", "--out", "out")

    assert fake.requests == []
    assert (elsewhere.exit_code, here.exit_code) == (Exit.OK, Exit.OK)
    assert "planned with the settings of this machine, not those of" in elsewhere.stdout
    assert sorted(path.name for path in folder.rglob("*")) == before


def test_a_plan_lists_the_request_and_cost_of_each_scene(folder: Path) -> None:
    """Whole seconds, the window, the prompt and its source."""
    planned = _plan("--provider", "replicate")
    scenes = [(s["asked_s"], s["window_s"], s["prompt_from"]) for s in planned["scenes"]]

    assert scenes == [
        (2, 0, "its description"),
        (4, 1, "its mood"),
        (14, 1, "the scene"),
    ]
    assert planned["scenes"][2]["prompt"] == "a harp"
    assert "dramatic" in planned["scenes"][1]["prompt"]
    assert planned["estimate"] == {
        "cost_usd": 0.056,
        "music_s": 20,
        "seconds": 49.0,
        "provider": "replicate",
    }
    assert sum(s["cost_usd"] for s in planned["scenes"]) == pytest.approx(0.056)
    assert not folder.joinpath("home").exists()


@pytest.mark.usefixtures("folder")
def test_a_style_sample_gives_the_first_scene_a_window() -> None:
    """The estimate counts it as the api does."""
    planned = _plan("--provider", "replicate", "--style", "https://x.example/a.mp3")

    assert [scene["window_s"] for scene in planned["scenes"]][:2] == [5, 1]
    assert planned["estimate"]["music_s"] == 25


@pytest.mark.usefixtures("folder")
def test_a_run_over_its_cost_limit_is_planned_as_refused() -> None:
    """The dry run itself succeeds."""
    planned = _plan("--provider", "replicate", "--max-cost", "0.02")

    assert (planned["verdict"], planned["scenes_paid"]) == ("refused", 0)
    assert planned["max_cost"] == 0.02
    assert "audio_params.max_cost" in planned["why"]


@pytest.mark.usefixtures("folder")
def test_a_plan_says_how_many_scenes_the_cost_limit_pays_for() -> None:
    """0.0056 and 0.0112 are within 0.03, 0.0392 more are not."""
    limit = ["--max-cost", "0.03", "--on-max-cost", "error_strategy"]
    planned = _plan("--provider", "replicate", *limit)

    assert (planned["verdict"], planned["scenes_paid"]) == ("begins", 2)
    assert "2 of 3 scenes, then continue_with_silence" in planned["why"]


def test_a_plan_uses_the_settings_of_the_api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost limit, window and price."""
    monkeypatch.setenv("AUDIO_MAX_COST", "0.5")
    monkeypatch.setenv("MUSIC_PROVIDER", "replicate")
    monkeypatch.setenv("SEGUE_WINDOW_S", "3")
    monkeypatch.setenv("SEGUE_REPLICATE_USD_PER_S", "0.01")
    planned = _plan()

    assert (planned["max_cost"], planned["verdict"]) == (0.5, "begins")
    assert (planned["provider"], planned["estimate"]["music_s"]) == ("replicate", 24)
    assert planned["estimate"]["cost_usd"] == 0.48
    assert folder.is_dir()


def test_a_plan_uses_the_provider_of_the_running_stack(folder: Path) -> None:
    """A plan for another provider has a note."""
    data_dir = folder / "home"
    data_dir.mkdir()
    moment = SystemClock().now()
    url = "http://127.0.0.1:1"
    write_stack_files(
        data_dir,
        RunningStack(pid=os.getpid(), api_url=url, provider="silence", started_at=moment),
    )
    lock = lock_data_dir(data_dir)
    assert lock is not None

    try:
        assert _plan()["provider"] == "silence"
        other = _plan("--provider", "replicate")
    finally:
        os.close(lock)

    assert other["provider"] == "replicate"
    assert any(url in note and "silence" in note for note in other["notes"])


@pytest.mark.usefixtures("folder")
def test_a_plan_knows_the_providers_and_the_default_of_the_stack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are those of the stack's settings: Replicate with a key, else the synthesizer."""
    assert set(PROVIDERS) == set(get_args(StackProvider))
    assert StackSettings.from_environment().provider == "synth" == _plan()["provider"]
    monkeypatch.setenv("REPLICATE_API_KEY", "r8_x")
    assert StackSettings.from_environment().provider == "replicate" == _plan()["provider"]
    assert _plan()["provider_reason"] == "REPLICATE_API_KEY is set"
    assert _plan("--provider", "fake-replicate")["estimate"]["cost_usd"] > 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--provider", "orchestra"], "orchestra"),
        (["--max-cost", "-1"], "--max-cost"),
        (["--fade-duration", "99"], "audio_params.fade_duration"),
        (["--style", "nowhere.mp3"], "--style"),
        (["--on-max-cost", "panic"], "--on-max-cost"),
    ],
)
def test_an_invalid_option_is_rejected_as_in_a_real_run(options: list[str], message: str) -> None:
    """Exit code 2, and the name of the field or option."""
    result = _segue(*options)

    assert result.exit_code == Exit.USAGE
    assert message in result.stderr


def test_a_scene_that_the_api_would_reject_is_rejected(folder: Path) -> None:
    """The limits are those of this machine's settings."""
    (folder / "scenes.json").write_text('[{"duration_s": 3000}]')
    result = _segue()

    assert result.exit_code == Exit.USAGE
    assert "scene 1, duration_s" in result.stderr


@pytest.mark.usefixtures("folder")
def test_a_plan_is_printed_in_lines() -> None:
    """Scenes, estimate, cost limit, verdict, and how to score it."""
    output = _segue("--provider", "replicate", "--max-cost", "0.05", "--no-cache").stdout

    for text in (
        "requests 4 s (1 s of window), $0.0112",
        "$0.056 for 20 s",
        "Cost limit: $0.05",
        "Would be refused: ",
        "Dry run: nothing was started. To score it: leave out --dry-run.",
    ):
        assert text in output
