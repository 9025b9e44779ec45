"""Reads the scenes file of a video.

The file is a list, or an object with `scenes`; each entry is a scene as in the API (`SceneBody`).
Errors name the file, scene (from 1) and field.

I/O: reads one file, or standard input.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ops.cli.exit_codes import CommandError, Exit
from ops.cli.output import scene_numbers
from ops.cli.terminal import shown
from services.api.operators import (
    AudioParamsBody,
    GenerateBody,
    SceneBody,
    body_problems,
    parse_body,
)
from shared.contract.params import Scene
from shared.contract.validation import closest_name, unknown_field_message

FILE_BYTES_MAX = 16 * 1024 * 1024
STANDARD_INPUT = "-"
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
            body = parse_body(SceneBody, json.dumps(entry))
            scenes.append(Scene(**body.model_dump(exclude_none=True)))
        except ValidationError as error:
            fields = body_problems(error, prefix=f"scenes[{index}]")
            problems += [f"{field}: {message}" for field, message in fields]
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN_MAX
        message = "; ".join(problems[:_PROBLEMS_SHOWN_MAX])
        raise _invalid(path, scene_numbers(message) + (f" (and {more} more)" if more > 0 else ""))
    return scenes


def scenes_file_of(film: Path) -> Path | None:
    """Return the scenes file beside the film, which is used only if it is named."""
    beside = (film.with_suffix(".json"), film.with_name("scenes.json"))
    return next((path for path in beside if path.is_file()), None)


def _document(path: Path) -> Any:
    try:
        data = _read(path)
        if len(data) > FILE_BYTES_MAX:
            raise _invalid(path, f"is larger than {FILE_BYTES_MAX} bytes; a scenes file is smaller")
        return json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise _invalid(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise _invalid(path, "is not UTF-8 text") from error
    except RecursionError as error:
        raise _invalid(path, "is nested too deeply; a scene has no lists in it") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise _invalid(path, f"is not JSON ({error.msg}, {at})") from error


def _entries(path: Path, document: Any) -> list[Any]:
    if isinstance(document, dict):
        _check_fields(path, document)
    entries = document.get("scenes") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise _invalid(path, 'must be a list of scenes, or an object with "scenes"')
    if not entries:
        raise _invalid(path, "has no scenes; a video has at least one")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _invalid(
                path, f"scene {index + 1}: must be an object with description, duration_s"
            )
    return entries


def _check_fields(path: Path, document: dict[str, Any]) -> None:
    """Raise if the file has, beside its scenes, what only an option can set."""
    for name in document.keys() - {"scenes"}:
        if name in AudioParamsBody.model_fields:
            option = f"--{name.replace('_', '-')}"
            raise _invalid(path, f"{name}: is not read from this file; use the option {option}")
        if name in GenerateBody.model_fields:
            raise _invalid(path, f"{name}: is not read from this file; use the options of segue")
        if "scenes" not in document and closest_name(name, ["scenes"]):
            raise _invalid(path, f"{name}: {unknown_field_message(name, ['scenes'])}")


def _read(path: Path) -> bytes:
    """Return the file, or as much of it as shows that it is too large."""
    if str(path) == STANDARD_INPUT:
        return sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


def _invalid(path: Path, problem: str) -> CommandError:
    name = "standard input" if str(path) == STANDARD_INPUT else shown(path)
    return CommandError(Exit.USAGE, f"{name}: {problem}")
