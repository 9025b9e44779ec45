"""Libraries: what others say through Python's own logging becomes lines of ours.

So a log is JSON to its last line, and what libraries quote goes through the same redaction.
"""

import logging
from collections.abc import Callable

from structlog.types import FilteringBoundLogger
from typing_extensions import override

from shared.telemetry import trace


class StdlibLogHandler(logging.Handler):
    """Hands on to the logger of whoever's work it is."""

    def __init__(self, logger_of: Callable[[str], FilteringBoundLogger]) -> None:
        super().__init__()
        self._logger_of = logger_of

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._logger_of(trace.current_service().name).log(
                record.levelno,
                "a library says something",
                action="library.logged",
                library=record.name,
                reason=record.getMessage(),
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - as every handler: what cannot be said stops nothing
            self.handleError(record)
