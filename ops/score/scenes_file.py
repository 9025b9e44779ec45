"""Reads the scenes file of a video.

The file is a list, or an object with `scenes`; each entry is a scene as in the API (`SceneBody`).
Errors name the file, entry and field.

I/O: reads one file.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from services.api.operators import SceneBody, body_problems
from shared.contract.params import Scene

FILE_BYTES_MAX = 16 * 1024 * 1024
_PROBLEMS_SHOWN_MAX = 5


def read_scenes(path: Path) -> list[Scene]:
    """Return the scenes in `path`.

    Raises:
        CommandError: the file is invalid; the message names entry and field.
    """
    entries = _entries(path, _document(path))
    scenes: list[Scene] = []
    problems: list[str] = []
    for index, entry in enumerate(entries):
        try:
            body = SceneBody.model_validate_json(json.dumps(entry))
            scenes.append(Scene(**body.model_dump(exclude_none=True)))
        except ValidationError as error:
            fields = body_problems(error, prefix=f"scenes[{index}]")
            problems += [f"{field}: {message}" for field, message in fields]
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN_MAX
        message = "; ".join(problems[:_PROBLEMS_SHOWN_MAX])
        raise _invalid(path, message + (f" (and {more} more)" if more > 0 else ""))
    return scenes


def _document(path: Path) -> Any:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise _invalid(path, f"is larger than {FILE_BYTES_MAX} bytes; a scenes file is smaller")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _invalid(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _invalid(path, "is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise _invalid(path, f"is not JSON ({error.msg}, {at})") from error


def _entries(path: Path, document: Any) -> list[Any]:
    entries = document.get("scenes") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise _invalid(path, 'must be a list of scenes, or an object with "scenes"')
    if not entries:
        raise _invalid(path, "has no scenes; a video has at least one")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _invalid(path, f"scenes[{index}]: must be an object with description, duration_s")
    return entries


def _invalid(path: Path, problem: str) -> CommandError:
    return CommandError(Exit.USAGE, f"{path}: {problem}")
