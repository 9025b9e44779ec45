"""Turns pydantic's validation errors into field paths and messages.

A message states what the field must be, without the names of Python and pydantic.

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
_VALID = r"^Input should be a valid "
#: pydantic's texts, and ours; the first that matches counts
_TEXTS: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), text)
    for pattern, text in (
        (r"^(?:Value error|Assertion failed), ", ""),
        (r"^Field required$", "is required"),
        (r"^Extra inputs are not permitted$", "is not a known field: remove it"),
        (r"^Invalid JSON: (.*)$", r"is not valid JSON: \1"),
        (r"^JSON input should be .*$", "must be JSON"),
        (
            rf"{_VALID}dictionary.*$|^Input should be an (?:object|instance of ).*$",
            "must be an object",
        ),
        (rf"{_VALID}(?:list|tuple|set|frozenset|array)$", "must be a list"),
        (rf"{_VALID}string.*$", "must be a text"),
        (rf"{_VALID}integer.*$", "must be a whole number"),
        (rf"{_VALID}number.*$|^Input should be a finite number$", "must be a number"),
        (rf"{_VALID}boolean.*$", "must be true or false"),
        (rf"{_VALID}(?:date|datetime|time)\b.*$", "must be a time, as 2026-01-31T12:00:00Z"),
        (rf"{_VALID}(\w+).*$", r"must be a valid \1"),
        (r"^Input is not a valid (\w+).*$", r"must be a valid \1"),
        (r"^Input should be None$", "must be null"),
        (r"^Input should be greater than or equal to (.*)$", r"must be at least \1"),
        (r"^Input should be less than or equal to (.*)$", r"must be at most \1"),
        (r"^Input should be (.*)$", r"must be \1"),
        (
            r"^String should match pattern .*$",
            "has a wrong form or wrong characters",
        ),
        (r"^(\w+) should have (.*) after validation, not (.*)$", r"must have \2, not \3"),
        (r"^(\w+) should have (.*)$", r"must have \2"),
        (r"^Unable to extract tag using discriminator (.*)$", r"needs the field \1"),
    )
]


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
    """Return what a field must be, from pydantic's message."""
    for pattern, text in _TEXTS:
        if pattern.search(message):
            return pattern.sub(text, message, count=1)
    return message


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
