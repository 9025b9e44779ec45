"""Log: JSON lines with a closed set of actions; job and scene are bound, payloads never logged.

A line is a constant sentence plus fields: `log.info("segment stored", action="segment.stored",
size_bytes=…)`. What it is about (job, run, scene) is bound once, where a record or a request is
taken up (`about`); its trace stands beside it. Secrets never appear: fields whose names sound
like one are masked, and what looks like one is cut out of every text (`redaction`). What
libraries say goes the same way, as lines of `library.logged`.
"""

import logging
import sys
from contextlib import AbstractContextManager
from typing import Literal, TextIO, get_args

import structlog
from structlog.types import EventDict, FilteringBoundLogger, WrappedLogger

from shared.settings import TelemetrySettings
from shared.telemetry import trace
from shared.telemetry.redaction import GONE, redacted
from shared.telemetry.stdlib_logging import StdlibLogHandler

LogAction = Literal[
    "service.starting",
    "service.waiting",
    "service.ready",
    "service.stopping",
    "service.stopped",
    "service.failed",
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
    "webhook.rejected",
    "request.failed",
    "store.called",
    "cache.write_failed",
]
ACTIONS: frozenset[str] = frozenset(get_args(LogAction))
_SECRET_WORDS = ("token", "secret", "password", "api_key", "authorization")

Logger = FilteringBoundLogger


def configure(settings: TelemetrySettings, *, stream: TextIO | None = None) -> None:
    """Set how lines look and from which level they are said; once per process."""
    out = stream or sys.stderr
    for name in ("aiokafka", "asyncpg", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings are our normal weather
    logging.basicConfig(level=logging.WARNING, handlers=[StdlibLogHandler(logger_of)])
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if settings.log_plain
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _traced,
            structlog.processors.format_exc_info,
            _masked,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def logger_of(service: str) -> Logger:
    """The logger of one service, as the log is configured now.

    Bound here: unbound, even a line that nobody wants costs ten times as much.
    """
    logger: Logger = structlog.get_logger(service=service).bind()
    return logger


def log_context(**fields: object) -> AbstractContextManager[None]:
    """Every line that is said inside has these fields, whoever says it; None: it has not."""
    known = {name: value for name, value in fields.items() if value is not None}
    return structlog.contextvars.bound_contextvars(**known)


def bind(**fields: object) -> None:
    """From here on every line of this task, and of those that it starts, has these fields."""
    structlog.contextvars.bind_contextvars(**fields)


def _traced(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    trace_id = trace.current_trace_id()
    if trace_id is not None:
        line["trace_id"] = trace_id
    return line


def _masked(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    for key, value in line.items():
        if any(word in key.lower() for word in _SECRET_WORDS):
            line[key] = GONE
        else:
            line[key] = redacted(value)
    return line
