"""Formats log lines for a terminal: `04:30:49 generator  starting (provider synth)`.

Local time, service, message, the fields worth reading, and the reason. Warnings and errors carry
their level; a traceback follows below its line. On a terminal a line wraps at word boundaries, and
continues below its message. Pure.
"""

import textwrap
from collections.abc import Callable

from structlog.types import EventDict, WrappedLogger

_SERVICE_CHARS = 10
_BODY_CHARS_MIN = 24  # beside time and service; with less the line continues at the left
_HIDDEN = frozenset({"action", "trace_id", "level", "timestamp", "service", "event"})
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


class TextRenderer:
    """A structlog renderer; `colors`: with ANSI colours."""

    def __init__(self, *, colors: bool, width_of: Callable[[], int | None] = lambda: None) -> None:
        """`width_of` returns the columns of the terminal now; None: lines are not wrapped."""
        self._colors = colors
        self._width_of = width_of

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> str:
        """Return one line, and its traceback below it."""
        level = str(line.get("level", "info"))
        exception = line.pop("exception", None)
        prefix = f"{line.get('timestamp', '')} {line.get('service', ''):<{_SERVICE_CHARS}}"
        marker = f"{level.upper()} " if level in _COLORS else ""
        text = _wrapped(f"{prefix} ", f"{marker}{_message(line)}", self._width_of())
        if self._colors:
            rest = text[len(prefix) + 1 :]
            if marker:
                rest = f"{_COLORS[level]}{marker.rstrip()}{_RESET}{rest[len(marker) - 1 :]}"
            text = f"{_DIM}{prefix}{_RESET} {rest}"
        return text if exception is None else f"{text}\n{exception}"


def _wrapped(prefix: str, body: str, width: int | None) -> str:
    """Return the line, wrapped at word boundaries; a longer word is broken."""
    if width is None or len(prefix) + len(body) <= width:
        return prefix + body
    is_wide = width - len(prefix) >= _BODY_CHARS_MIN
    return textwrap.fill(
        body,
        width,
        initial_indent=prefix,
        subsequent_indent=" " * (len(prefix) if is_wide else 2),
        break_on_hyphens=False,
    )


def _message(line: EventDict) -> str:
    shown = {name: value for name, value in line.items() if name not in _HIDDEN}
    library, reason = shown.pop("library", None), shown.pop("reason", None)
    message = f"{library}: {line.get('event', '')}" if library else str(line.get("event", ""))
    parts = [
        part
        for name in ("job_id", "run", "scene_index")
        if (part := _field(name, shown.pop(name, None)))
    ]
    parts += [part for name, value in shown.items() if (part := _field(name, value))]
    if parts:
        message += f" ({', '.join(parts)})"
    return message if reason is None else f"{message}: {reason}"


def _field(name: str, value: object) -> str | None:
    if value is None:
        return None
    if name == "scene_index" and isinstance(value, int):
        return f"scene {value + 1}"
    if isinstance(value, float):
        value = f"{value:g}"
    return f"{name.removesuffix('_id').replace('_', ' ')} {value}"
