"""Which provider a command composes with: its first line, and errors before anything is paid."""

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embedded.__main__ import main as embedded_main
from ops.__main__ import app
from ops.cli.exit_codes import CommandError, Exit
from ops.cli.settings import CommandSettings
from ops.score.provider import choose
from shared.clock import SystemClock
from shared.local_stack import RunningStack
from tests.fakes.api import Answer, fake_api

BY_OPTION = "Music: replicate (MusicGen), because --provider is replicate"
BY_KEY = "Music: replicate (MusicGen), because REPLICATE_API_KEY is set"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of the command, with a scenes file."""
    (tmp_path / "scenes.json").write_text(json.dumps([{"duration_s": 2}]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGUE_DATA_DIR", str(tmp_path / "home"))
    return tmp_path


def _score(*args: str) -> Result:
    return CliRunner().invoke(app, ["score", "--no-video", "--scenes", "scenes.json", *args])


def _nothing_started(folder: Path) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["scenes.json"]


def test_replicate_without_a_key_ends_at_once_with_instructions(folder: Path) -> None:
    """The first line says which provider and why; nothing was started or written."""
    scored = _score("--provider", "replicate")
    shown = CliRunner().invoke(app, ["demo", "--provider", "replicate"])

    for result in (scored, shown):
        assert result.exit_code == Exit.USAGE
        assert result.stdout.splitlines()[0] == BY_OPTION
        assert "REPLICATE_API_KEY: missing, but --provider is replicate: create" in result.stderr
    assert _nothing_started(folder)


def test_a_rejected_key_ends_at_once_as_rejected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an option: the key alone selects Replicate."""
    with fake_api(Answer(status=401)) as replicate:
        monkeypatch.setenv("REPLICATE_API_KEY", "r8_wrong")
        monkeypatch.setenv("REPLICATE_BASE_URL", replicate.url)
        result = _score()

    assert result.exit_code == Exit.USAGE
    assert result.stdout.splitlines() == [BY_KEY]
    assert "Replicate rejected the key (HTTP 401)" in result.stderr
    assert "missing" not in result.stderr
    assert len(replicate.requests) == 1
    assert _nothing_started(folder)


@pytest.mark.usefixtures("folder")
def test_a_stack_refuses_to_start_without_the_key_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`segue up`; the first line of its log says which provider and why."""
    monkeypatch.setenv("MUSIC_PROVIDER", "replicate")
    monkeypatch.setattr(sys, "argv", ["segue up"])

    code = embedded_main()

    output = capsys.readouterr()
    first = json.loads(output.out.splitlines()[0])
    assert code == Exit.USAGE
    assert (first["action"], first["provider"]) == ("provider.chosen", "replicate")
    assert first["reason"] == "MUSIC_PROVIDER is replicate"
    assert "REPLICATE_API_KEY: missing, but MUSIC_PROVIDER is replicate" in output.err


@pytest.mark.usefixtures("folder")
def test_the_provider_of_another_api_cannot_be_chosen() -> None:
    """It was ignored before."""
    result = _score("--api", "http://127.0.0.1:9", "--provider", "synth")

    assert result.exit_code == Exit.USAGE
    assert "--provider: the api at http://127.0.0.1:9 has its own provider" in result.stderr


@pytest.mark.usefixtures("folder")
def test_a_running_stack_keeps_its_provider_and_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a key in the environment, the line says how to use it."""
    url = "http://127.0.0.1:4000"
    now = SystemClock().now()
    stack = RunningStack(pid=os.getpid(), api_url=url, provider="synth", started_at=now)
    settings = CommandSettings.from_environment()
    plain = choose(settings, None, stack=stack)
    monkeypatch.setenv("REPLICATE_API_KEY", "r8_x")
    with_key = choose(settings, None, stack=stack)

    assert (plain.name, plain.reason) == ("synth", f"the stack at {url} uses it")
    assert with_key.reason.endswith(
        "it started without REPLICATE_API_KEY: stop it to use replicate"
    )
    with pytest.raises(CommandError, match="uses the provider synth, not replicate; stop it"):
        choose(settings, "replicate", stack=stack)


@pytest.mark.usefixtures("folder")
def test_an_unknown_name_is_reported_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option or the variable, and the names that exist."""
    option = _score("--provider", "orchestra")
    monkeypatch.setenv("MUSIC_PROVIDER", "orchestra")
    variable = _score()

    for result, source in ((option, "--provider"), (variable, "MUSIC_PROVIDER")):
        assert result.exit_code == Exit.USAGE
        assert f"{source}: orchestra is not a music provider; use one of synth, " in result.stderr
