"""Turns pydantic's validation errors into field paths and messages.

Pure.
"""

from collections.abc import Collection, Sequence

from pydantic import ValidationError

FieldProblems = list[tuple[str, str]]  #: field path, what is wrong with it
SHOWN_MAX = 5


def field_problems(
    error: ValidationError, *, prefix: str = "", skip: Collection[str] = (), root: str = "value"
) -> FieldProblems:
    """Return each problem of `error` as a field path and a message; see `field_path`."""
    return [
        (
            field_path(problem["loc"], prefix=prefix, skip=skip, root=root),
            plain_message(problem["msg"]),
        )
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
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
    shown = "; ".join(f"{field}: {message}" for field, message in problems[:SHOWN_MAX])
    more = len(problems) - SHOWN_MAX
    return f"{shown} (and {more} more)" if more > 0 else shown
