"""Turns pydantic's validation errors into field paths and messages.

Pure.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from pydantic import ValidationError

FieldProblems = list[tuple[str, str]]  #: field path, what is wrong with it
SHOWN_MAX = 5
EXPLAINED_MAX = 100  # problems with their own message, which takes longer to find than pydantic's
_NAME_CHARS_MAX = 100  # of a name that is compared with the valid ones
_CLOSE = 0.6  # difflib's own limit
_PART_CHARS_MIN = 3  # "fade" is a part of "fade_duration"; "s" is a part of everything
MessageOf = Callable[[Any], str | None]  #: a pydantic error's own message; None: pydantic's


def field_problems(
    error: ValidationError,
    *,
    prefix: str = "",
    skip: Collection[str] = (),
    root: str = "value",
    message_of: MessageOf = lambda _problem: None,
) -> FieldProblems:
    """Return each problem of `error` as a field path and a message; see `field_path`."""
    return [
        (
            field_path(problem["loc"], prefix=prefix, skip=skip, root=root),
            (message_of(problem) if number < EXPLAINED_MAX else None)
            or plain_message(problem["msg"]),
        )
        for number, problem in enumerate(
            error.errors(include_url=False, include_input=False, include_context=False)
        )
    ]


def field_path(
    loc: Sequence[int | str], *, prefix: str = "", skip: Collection[str] = (), root: str = "value"
) -> str:
    """Return `("scenes", 2, "duration_s")` as `scenes[2].duration_s`.

    `skip`: parts of the location that are no fields; `root`: the name of an empty path.
    """
    parts = [part for part in loc if part not in skip]
    names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    return (prefix + "".join(names)).lstrip(".") or root


def plain_message(message: str) -> str:
    """Return pydantic's message without the name of the exception."""
    return message.removeprefix("Value error, ")


def join_problems(problems: FieldProblems) -> str:
    """Return the first problems in one line, and how many more there are."""
    shown = "; ".join(
        f"{field[:_NAME_CHARS_MAX]}: {message}" for field, message in problems[:SHOWN_MAX]
    )
    more = len(problems) - SHOWN_MAX
    return f"{shown} (and {more} more)" if more > 0 else shown


def closest_name(given: str, names: Iterable[str]) -> str | None:
    """Return the name that `given` most likely means; None if it is close to none."""
    plain = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
    wanted = re.sub(r"[^a-z0-9]", "", given[:_NAME_CHARS_MAX].lower())

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, wanted, plain[name]).ratio()

    def is_close(name: str) -> bool:
        shorter = min(wanted, plain[name], key=len)
        is_part = wanted in plain[name] or plain[name] in wanted
        return (is_part and len(shorter) >= _PART_CHARS_MIN) or likeness(name) >= _CLOSE

    return max(filter(is_close, plain), key=likeness, default=None)


def unknown_field_message(given: str, names: Sequence[str]) -> str:
    """Return the message for a field that is not one of `names`."""
    closest = closest_name(given, names)
    return f"unknown field: use {closest or 'one of ' + ', '.join(names)}"
