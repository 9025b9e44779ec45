"""Exit codes of `segue`, and the report of a command's error.

A command raises `CommandError`; `report_errors` turns it, and Ctrl-C, into a message and an exit
code. With `--json` the error is an object on standard output, so that a script always reads one
document.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from ops.cli.layout import Hanging
from ops.cli.terminal import discard, has_reader, print_lines, shown
from shared.errors import SegueError, SettingsError


class Exit(IntEnum):
    """The exit codes of `segue`; the help lists them."""

    OK = 0  #: done
    FAILED = 1  #: the job failed, or a check of `segue doctor` did
    USAGE = 2  #: invalid input: a file, an option, a setting, or what the api rejects
    UNREACHABLE = 3  #: no stack, api or server answers in time; run the same command again
    REFUSED = 4  #: not found, or not possible in the current state; nothing was changed
    INTERRUPTED = 130  #: Ctrl-C


HELP = (
    "Exit codes: 0 done; 1 the job or a check failed; 2 invalid input or settings; "
    "3 the stack, api or a server is unavailable or timed out; "
    "4 not found, or rejected in the current state: nothing was changed; 130 interrupted."
)


class CommandError(SegueError):
    """The command cannot do its work; the message names the value and what to do."""

    def __init__(self, code: Exit, message: str, *, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail or {}  #: more for scripts; shown with `--json`


#: the message after Ctrl-C of commands that resume
RESUMABLE = "interrupted; run the same command again to resume"


@contextmanager
def report_errors(*, as_json: bool, interrupted: str = "interrupted") -> Iterator[None]:
    """Run a command's body; end with the exit code of its error.

    `interrupted` is the message after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        _exit(Exit.INTERRUPTED, interrupted, as_json=as_json)
    except CommandError as error:
        _exit(error.code, str(error), as_json=as_json, detail=error.detail)
    except SettingsError as error:
        _exit(Exit.USAGE, str(error), as_json=as_json)
    except BrokenPipeError as error:
        if has_reader():
            _exit(Exit.FAILED, f"connection: {error.strerror}", as_json=as_json)
        discard(sys.stdout)
        raise typer.Exit(int(Exit.OK)) from error
    except UnicodeEncodeError as error:
        text = shown(error.object)
        _exit(Exit.USAGE, f"not UTF-8: {text}; write it in UTF-8", as_json=as_json)
    except OSError as error:  # a full disk, a folder without write permission
        _exit(Exit.FAILED, f"{shown(error.filename or 'files')}: {error.strerror}", as_json=as_json)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """Return a JSON document that every encoding can write, or one with its characters as they are.

    A path that is not UTF-8 is escaped, so that a script reads it back unchanged.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, AttributeError):
        return json.dumps(value, indent=2)
    return text


def _exit(code: Exit, message: str, *, as_json: bool, detail: dict[str, Any] | None = None) -> None:
    if as_json:
        print_json({"exit_code": int(code), "error": message, **(detail or {})})
    else:
        print_lines([Hanging("segue: ", message)], file=sys.stderr)
    raise typer.Exit(int(code))
