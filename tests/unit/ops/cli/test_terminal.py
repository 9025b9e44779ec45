"""Text is printed as it is, in every encoding, and a closed pipe ends a command silently."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO

import pytest
import typer

from ops.cli import terminal
from ops.cli.exit_codes import Exit, json_text, report_errors
from ops.cli.layout import Listing
from ops.cli.terminal import TextConsole, shown
from tests.support.fork_server import REPOSITORY

NAMES = ("my film [final].mp4", "clips [/raw]/f.mp4", "[bold]x[/]", ":smile:.mp4", "[link=x]")


def segue(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `segue` in a shell line; `$SEGUE` is the command."""
    command = f"{sys.executable} -m ops"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell.replace("$SEGUE", command)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},  # noqa: TID251 - the child's
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", NAMES)
def test_user_text_is_never_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In lines and in the cells of tables."""
    table = Listing("job", wraps={"job"})
    table.add_row(name)

    TextConsole().print(f"Uploading {name}")
    TextConsole(width=120).print(table)

    uploading, _heading, cell = capsys.readouterr().out.splitlines()
    assert uploading == f"Uploading {name}"
    assert cell.strip() == name


def test_a_name_for_a_message_is_printable_and_on_one_line() -> None:
    """Bytes that are not UTF-8, control characters and line ends become question marks."""
    assert shown(Path(os.fsdecode(b"caf\xe9\x1b[2J\n.mp4"))) == "caf??[2J?.mp4"
    assert shown(Path("über 🎬.mp4")) == "über 🎬.mp4"


@contextmanager
def closed_pipe() -> Iterator[IO[str]]:
    """Yield standard output, a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream, redirect_stdout(stream):
        yield stream
        terminal.discard(stream)


def test_a_command_without_a_reader_ends_silently(capsys: pytest.CaptureFixture[str]) -> None:
    """Its exit code is 0: it was not at fault."""
    with closed_pipe() as output, pytest.raises(typer.Exit) as ended, report_errors(as_json=False):
        output.write("a line\n")

    assert ended.value.exit_code == Exit.OK
    assert capsys.readouterr().err == ""


def test_a_console_without_a_reader_ends_the_command_or_continues_quietly() -> None:
    """`segue score | head -1` still writes its files."""
    with closed_pipe() as output:
        TextConsole(ends_with_reader=False).print("a line")
        output.write("discarded as well\n")


def test_a_table_without_a_reader_ends_the_command() -> None:
    """For commands that only print."""
    with closed_pipe(), pytest.raises(SystemExit) as ended:
        TextConsole().print("a line")

    assert ended.value.code == 0


def test_a_broken_connection_is_not_a_closed_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has a reader: the error is reported."""
    with pytest.raises(typer.Exit) as ended, report_errors(as_json=False):
        raise BrokenPipeError(32, "Broken pipe")

    assert ended.value.exit_code == Exit.FAILED
    assert "Broken pipe" in capsys.readouterr().err


def test_text_that_is_not_utf8_is_invalid_input(capsys: pytest.CaptureFixture[str]) -> None:
    r"""For example `--prompt $'\xe9'`: JSON cannot hold it."""
    with pytest.raises(typer.Exit) as ended, report_errors(as_json=False):
        os.fsdecode(b"caf\xe9").encode()

    assert ended.value.exit_code == Exit.USAGE
    assert "segue: not UTF-8: caf?" in capsys.readouterr().err


def test_a_json_document_can_always_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escaped where needed, and the same when it is read."""
    value = {"path": os.fsdecode(b"o\xe9"), "job": "🎬"}
    assert json.loads(json_text(value)) == value
    assert "🎬" in json_text({"job": "🎬"})

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert json.loads(json_text(value).encode("ascii")) == value


def test_the_command_itself_is_silent_in_a_closed_pipe_and_works_in_ascii() -> None:
    """The whole process, as a shell starts it."""
    name = os.fsdecode(b"o\xe9 [x] \xf0\x9f\x8e\xac")

    closed = segue("$SEGUE acls | true")
    in_ascii = segue(f"$SEGUE score '{name}' --scenes '{name}'", PYTHONIOENCODING="ascii")

    assert (closed.returncode, closed.stderr) == (0, b"")
    assert in_ascii.returncode == Exit.USAGE
    assert b"Traceback" not in in_ascii.stderr
    assert b"o? [x] ?" in in_ascii.stderr


def test_a_full_device_is_reported_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of the command, when the buffer is written."""
    with Path("/dev/full").open("w") as full, redirect_stdout(full):
        full.write("a line\n")
        with pytest.raises(SystemExit) as ended:
            terminal.flush_streams()

    assert ended.value.code == 1
    assert capsys.readouterr().err == "segue: standard output: No space left on device\n"
