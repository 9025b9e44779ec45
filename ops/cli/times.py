"""Times as people read and type them; always UTC.

A time is printed in one format, that of the api: `2026-01-31T12:00:00Z`. It is typed in the same
format or a shorter one: `1h`, `today`, `04:00`, `2026-01-31`.

No I/O.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

FORMS = "1h, 30m, 2d, today, 04:00, 2026-01-31 or 2026-01-31T12:00:00 (UTC)"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAMES = {"sec": "s", "min": "m", "hour": "h", "day": "d", "week": "w"}
_UNIT = r"(?:s|secs?|m|mins?|h|hours?|d|days?|w|weeks?)"
_DURATION = re.compile(rf"(?:\d+(?:\.\d+)?\s*{_UNIT}\s*)+")
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as it was typed."""

    text: str
    at: datetime  #: with a time zone
    is_relative: bool  #: typed again later, it is another time


def format_time(moment: datetime) -> str:
    """Return a time as every command prints it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str, *, now: datetime) -> Moment:
    """Return the time that a person typed: a duration is that long ago, a clock time the last one.

    Raises:
        ValueError: it has no known form; the message lists the forms.
    """
    words = " ".join(text.lower().split())
    try:
        at, is_relative = _relative(words, now), True
        if at is None:
            at, is_relative = _absolute(words), False
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text} is not a time; use {FORMS}") from error
    return Moment(text, at, is_relative)


def _relative(words: str, now: datetime) -> datetime | None:
    """Return a time that depends on `now`; None if the words name another one."""
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if words in {"now", "today", "yesterday"}:
        return {"now": now, "today": today, "yesterday": today - timedelta(days=1)}[words]
    if match := _CLOCK.fullmatch(_without_zone(words)):
        hour, minute, second = (int(part or 0) for part in match.groups())
        at = datetime.combine(today, time(hour, minute, second), UTC)
        return at if at <= now else at - timedelta(days=1)
    duration = words.removesuffix(" ago")
    if not _DURATION.fullmatch(duration):
        return None
    parts = ((float(number), unit) for number, unit in _PART.findall(duration))
    for number, unit in parts:
        now -= timedelta(**{_UNITS[_NAMES.get(unit.rstrip("s"), unit)]: number})
    return now


def _absolute(words: str) -> datetime:
    at = datetime.fromisoformat(_without_zone(words).upper())
    return (at.replace(tzinfo=UTC) if at.tzinfo is None else at).astimezone(UTC)


def _without_zone(words: str) -> str:
    """Return the words without a `Z` or `UTC` at their end."""
    return words.removesuffix("utc").removesuffix("z").rstrip()
