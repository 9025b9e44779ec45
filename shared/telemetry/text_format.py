"""Formats log lines for a terminal: `04:30:49 generator  starting (provider synth)`.

Local time, service, message, the fields worth reading, and the reason. Warnings and errors carry
their level; a traceback follows below its line. Pure.
"""

from structlog.types import EventDict, WrappedLogger

_SERVICE_CHARS = 10
_HIDDEN = frozenset({"action", "trace_id", "level", "timestamp", "service", "event"})
_COLORS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_DIM, _RESET = "\x1b[2m", "\x1b[0m"


class TextRenderer:
    """A structlog renderer; `colors`: with ANSI colours."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> str:
        """Return one line, and its traceback below it."""
        level = str(line.get("level", "info"))
        exception = line.pop("exception", None)
        prefix = f"{line.get('timestamp', '')} {line.get('service', ''):<{_SERVICE_CHARS}}"
        marker = f"{level.upper()} " if level in _COLORS else ""
        if self._colors:
            prefix = f"{_DIM}{prefix}{_RESET}"
            marker = f"{_COLORS[level]}{marker.rstrip()}{_RESET} " if marker else ""
        text = f"{prefix} {marker}{_message(line)}"
        return text if exception is None else f"{text}\n{exception}"


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
