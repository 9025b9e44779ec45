"""Log: JSON lines with a closed set of actions; job and scene are bound, payloads never logged.

A line is a constant sentence plus fields: `log.info("segment stored", action="segment.stored",
job_id=…, size_bytes=…)`. Secrets never appear: fields whose names sound like one are masked.
"""

import logging
import sys
from typing import Literal, TextIO, get_args

import structlog
from structlog.types import EventDict, FilteringBoundLogger, WrappedLogger

from shared.settings import TelemetrySettings

LogAction = Literal[
    "service.starting",
    "service.waiting",
    "service.ready",
    "service.stopping",
    "service.stopped",
    "service.failed",
    "partitions.assigned",
    "partitions.lost",
    "record.retried",
    "record.skipped",
    "record.dead_lettered",
    "consumer.stopped",
    "commit.failed",
    "outbox.published",
    "outbox.waiting",
    "projection.stale",
    "projection.applied",
    "job.accepted",
    "job.cancelled",
    "job.resumed",
    "job.failed",
    "scene.started",
    "scene.delayed",
    "scene.reattached",
    "scene.cached",
    "scene.silenced",
    "provider.answered",
    "provider.paused",
    "continuation.stored",
    "continuation.unavailable",
    "style.taken",
    "style.unusable",
    "segment.stored",
    "segment.repeated",
    "track.merged",
    "video.muxed",
    "request.refused",
    "webhook.refused",
    "request.failed",
    "store.retried",
    "cache.failed",
]
ACTIONS: frozenset[str] = frozenset(get_args(LogAction))
_SECRET_WORDS = ("token", "secret", "password", "api_key", "authorization")

Logger = FilteringBoundLogger


def configure(settings: TelemetrySettings, *, stream: TextIO | None = None) -> None:
    """Set how lines look and from which level they are said; once per process."""
    out = stream or sys.stderr
    logging.basicConfig(stream=out, level=logging.WARNING, format="%(name)s: %(message)s")
    for name in ("aiokafka", "asyncpg", "faust", "mode"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their warnings are our normal weather
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty())
        if settings.log_plain
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _masked,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[settings.log_level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )


def logger_of(service: str) -> Logger:
    """The logger of one service."""
    logger: Logger = structlog.get_logger(service=service)
    return logger


def _masked(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    for key in line:
        if any(word in key.lower() for word in _SECRET_WORDS):
            line[key] = "***"
    return line
