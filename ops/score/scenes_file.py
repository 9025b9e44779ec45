"""Scenes: the file of a video's scenes, read for people who wrote it by hand.

A list, or an object with `scenes`; each entry has `description` and `duration_s` (or `start_s`
and `end_s`), and may have `prompt` and `mood`. What is wrong is told with file, entry and field.

I/O: reads one file.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from services.api.http.schemas import SceneBody
from services.api.operators import problems_of
from shared.contract.params import Scene

FILE_BYTES_MAX = 16 * 1024 * 1024
_TOLD_MAX = 5


def read_scenes(path: Path) -> list[Scene]:
    """The scenes in `path`.

    Raises:
        CommandError: the file cannot be used; the message names entry and field.
    """
    entries = _entries(path, _document(path))
    scenes: list[Scene] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        try:
            body = SceneBody.model_validate_json(json.dumps(entry))
            scenes.append(Scene(**body.model_dump(exclude_none=True)))
        except ValidationError as error:
            found = problems_of(error, prefix=f"scenes[{index}]")
            problems += [f"{field}: {message}" for field, message in found]
    if problems:
        more = len(problems) - _TOLD_MAX
        told = "; ".join(problems[:_TOLD_MAX]) + (f" (and {more} more)" if more > 0 else "")
        raise _wrong(path, told)
    return scenes


def _document(path: Path) -> Any:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise _wrong(path, f"is over {FILE_BYTES_MAX} bytes: that is no list of scenes")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _wrong(path, "is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise _wrong(path, f"is not JSON ({error.msg}, {at})") from error


def _entries(path: Path, document: Any) -> list[Any]:
    entries = document.get("scenes") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise _wrong(path, 'must be a list of scenes, or an object with "scenes"')
    if not entries:
        raise _wrong(path, "has no scenes: a video has at least one")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _wrong(path, f"scenes[{index}]: must be an object with description, duration_s")
    return entries


def _wrong(path: Path, problem: str) -> CommandError:
    return CommandError(Exit.USAGE, f"{path}: {problem}")
