"""Structured log: JSON lines or text, a closed set of actions, redacted fields.

A line is a constant sentence and fields: `log.info("segment stored", action="segment.stored",
size_bytes=…)`. Its subject (job, run, scene) is bound once per record or request
(`log_context`); the trace id is added. Payloads are not logged. Fields whose names suggest a
secret are masked, and secrets are removed from every text (`redaction`). Messages of libraries
become lines with the action `library.logged`.

`SEGUE_LOG_FORMAT`: `text` for people, `json` for machines; `auto` chooses text if the stream is a
terminal.
"""

import contextlib
import logging
import math
import os
import shutil
import sys
import time
from contextlib import AbstractContextManager
from typing import Literal, TextIO, cast, get_args

import structlog
from structlog.types import EventDict, FilteringBoundLogger, WrappedLogger

from shared.settings import TelemetrySettings
from shared.telemetry import trace
from shared.telemetry.redaction import MASK, redact
from shared.telemetry.stdlib_logging import StdlibLogHandler
from shared.telemetry.text_format import TextRenderer

LogAction = Literal[
    "service.starting",
    "service.waiting",
    "service.ready",
    "service.stopping",
    "service.stopped",
    "service.failed",
    "stand_in.used",
    "setting.ignored",
    "api.exposed",
    "partitions.assigned",
    "partitions.lost",
    "table.recovery_restarted",
    "library.logged",
    "dependency.unavailable",
    "health_port.opened",
    "record.received",
    "record.processed",
    "record.retried",
    "record.skipped",
    "record.dead_lettered",
    "consumer.stopped",
    "commit.failed",
    "kafka.poll_failed",
    "kafka.offset_reset",
    "faust.stop_timed_out",
    "event.published",
    "event.not_published",
    "outbox.published",
    "outbox.publish_failed",
    "projection.superseded",
    "projection.applied",
    "batch.split",
    "request.completed",
    "job.accepted",
    "job.cancelled",
    "job.resumed",
    "job.failed",
    "scene.started",
    "scene.planned",
    "claim.created",
    "claim.held",
    "scene.delayed",
    "scene.reattached",
    "scene.cached",
    "scene.silenced",
    "prediction.submitted",
    "prediction.polled",
    "prediction.cancel_failed",
    "provider.chosen",
    "provider.resumed",
    "provider.paused",
    "clip.fetched",
    "clip.measured",
    "clip.stored",
    "state.stored",
    "continuation.chosen",
    "continuation.stored",
    "continuation.unavailable",
    "style.accepted",
    "style.rejected",
    "segment.stored",
    "segment.republished",
    "segments.fetched",
    "clips.joined",
    "loudness.measured",
    "track.merged",
    "video.fetched",
    "video.planned",
    "video.checked",
    "video.muxed",
    "request.rejected",
    "uploads.deleted",
    "uploads.sweep_failed",
    "webhook.rejected",
    "request.failed",
    "store.called",
    "scratch.swept",
    "cache.write_failed",
]
ACTIONS: frozenset[str] = frozenset(get_args(LogAction))
STARTING_S_MAX = 120.0  # a service that reports no readiness counts as starting for so long
SETTLE_S = 20.0  # consumer groups are joined after a service is ready
_SECRET_WORDS = ("token", "secret", "password", "api_key", "authorization")

Logger = FilteringBoundLogger


def configure(settings: TelemetrySettings, *, stream: TextIO | None = None) -> None:
    """Set format and level of the log; once per process."""
    out = stream or sys.stderr
    for name in ("aiokafka", "asyncpg", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they warn of every rebalance
    starts = _Starts()
    handler = StdlibLogHandler(logger_of, is_starting=starts.is_starting)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    is_text = is_text_format(settings.log_format, out)

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_text else "iso", utc=not is_text),
            starts.note_ready,
            _with_trace_id,
            structlog.processors.format_exc_info,
            _masked,
            TextRenderer(
                colors=out.isatty() and not settings.no_color, width_of=lambda: width_of(out)
            )
            if is_text
            else structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LogStream(out))),
        cache_logger_on_first_use=False,
    )


class _LogStream:
    """Writes to `stream`; a line that cannot be written is dropped, whatever the reason.

    A full disk, a closed pipe or an encoding without a character must not stop the work that the
    line is about.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a line, escaped if the stream's encoding does not have its characters."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            try:
                return self._stream.write(text)
            except UnicodeEncodeError:
                return self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return 0

    def flush(self) -> None:
        """Flush the stream."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Starts:
    """Which services are starting: until they have been ready for a while."""

    def __init__(self) -> None:
        self._until_s = time.monotonic() + STARTING_S_MAX
        self._settled_s: dict[str, float] = {}

    def note_ready(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Note the readiness that a line reports; a structlog processor."""
        if line.get("action") == "service.ready":
            self._settled_s.setdefault(str(line.get("service")), time.monotonic() + SETTLE_S)
        return line

    def is_starting(self, service: str) -> bool:
        """Return whether `service` is starting."""
        return time.monotonic() < min(self._until_s, self._settled_s.get(service, math.inf))


def is_text_format(log_format: str, stream: TextIO) -> bool:
    """Return whether lines on `stream` are text; `auto`: if it is a terminal."""
    return log_format == "text" or (log_format == "auto" and stream.isatty())


def width_of(stream: TextIO) -> int | None:
    """Return the columns of the terminal, which `COLUMNS` overrides; None without a terminal."""
    if not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    return shutil.get_terminal_size((columns, 0)).columns or None


def logger_of(service: str) -> Logger:
    """Return the logger of a service with the current configuration.

    It is bound here: unbound, even a filtered line costs ten times as much.
    """
    logger: Logger = structlog.get_logger(service=service).bind()
    return logger


def log_context(**fields: object) -> AbstractContextManager[None]:
    """Add these fields to every line logged inside the block; None: left out."""
    known = {name: value for name, value in fields.items() if value is not None}
    return structlog.contextvars.bound_contextvars(**known)


def bind(**fields: object) -> None:
    """Add these fields to every further line of this task and of the tasks that it starts."""
    structlog.contextvars.bind_contextvars(**fields)


def _with_trace_id(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    trace_id = trace.current_trace_id()
    if trace_id is not None:
        line["trace_id"] = trace_id
    return line


def _masked(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    for key, value in line.items():
        if any(word in key.lower() for word in _SECRET_WORDS):
            line[key] = MASK
        else:
            line[key] = redact(value)
    return line
