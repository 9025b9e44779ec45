"""Exits: how a command ends; scripts rely on the codes, people on the words.

A command raises `CommandError`; `answering` turns it, and Ctrl-C, into words and a code. With
`--json` the error is an object on standard output, so that a script finds one answer there
whatever happened.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from shared.errors import SegueError, SettingsError


class Exit(IntEnum):
    """The exit codes of `segue`; the text is part of its help."""

    OK = 0  #: done
    FAILED = 1  #: the job failed, or a check of `segue doctor` did
    USAGE = 2  #: wrong input: a file, an option, a setting, or what the api refuses
    UNREACHABLE = 3  #: no stack, api or server answers, or not in time; go on with the same again
    REFUSED = 4  #: as things stand it would do harm, or there is nothing to do it to
    INTERRUPTED = 130  #: Ctrl-C


HELP = (
    "Exit codes: 0 done; 1 the job failed, or a check did; 2 wrong input or settings; "
    "3 the stack, api or a server cannot be reached, or not in time; "
    "4 refused as things stand: nothing was changed; 130 interrupted."
)


class CommandError(SegueError):
    """The command cannot do what it was asked; the message says the way out."""

    def __init__(self, code: Exit, message: str, *, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail or {}  #: more for scripts; shown with `--json`


#: what Ctrl-C is answered with by commands that can be said again
GOES_ON = "interrupted; the same command goes on where this stopped"


@contextmanager
def answering(*, as_json: bool, interrupted: str = "interrupted") -> Iterator[None]:
    """Run a command's body; end with the exit code that its error means.

    `interrupted` is what Ctrl-C is answered with.
    """
    try:
        yield
    except KeyboardInterrupt:
        _end(Exit.INTERRUPTED, interrupted, as_json=as_json)
    except CommandError as error:
        _end(error.code, str(error), as_json=as_json, detail=error.detail)
    except SettingsError as error:
        _end(Exit.USAGE, str(error), as_json=as_json)
    except OSError as error:  # a full disk, a folder that may not be written to
        _end(Exit.FAILED, f"{error.filename or 'files'}: {error.strerror}", as_json=as_json)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _end(code: Exit, message: str, *, as_json: bool, detail: dict[str, Any] | None = None) -> None:
    if as_json:
        print_json({"exit_code": int(code), "error": message, **(detail or {})})
    else:
        print(f"segue: {message}", file=sys.stderr)
    raise typer.Exit(int(code))
