"""Routes messages of libraries (Python's logging) into the structured log.

They keep their level, logger name and text, and pass the same redaction. Retries that are
expected while a service starts (a broker that is not up yet, a topic that is being created) are
logged at debug.
"""

import logging
import re
from collections.abc import Callable

from structlog.types import FilteringBoundLogger
from typing_extensions import override

from shared.telemetry import trace

_KAFKA_CLIENTS = ("aiokafka", "faust", "mode")
_EXPECTED_AT_START = re.compile(
    r"CoordinatorNotAvailable|not found in cluster metadata|is not available during auto-create"
    r"|Unable connect to|Unable to (request|update) metadata|Connect call failed"
    r"|[Cc]onnection refused|KafkaConnectionError"
)


class StdlibLogHandler(logging.Handler):
    """Logs records as the service that the current task works for."""

    def __init__(
        self,
        logger_of: Callable[[str], FilteringBoundLogger],
        *,
        is_starting: Callable[[str], bool] = lambda _service: False,
    ) -> None:
        """`is_starting`: whether a service has yet to report that it is ready."""
        super().__init__()
        self._logger_of = logger_of
        self._is_starting = is_starting

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            service, message = trace.current_service().name, record.getMessage()
            level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
            if self._is_starting(service) and is_expected_at_start(record.name, message):
                level = logging.DEBUG
            self._logger_of(service).log(
                level,
                message,
                action="library.logged",
                library=record.name,
                exc_info=record.exc_info,
            )
        except Exception:  # noqa: BLE001 - a message that cannot be logged must not stop the caller
            self.handleError(record)


def is_expected_at_start(library: str, message: str) -> bool:
    """Return whether a Kafka client logs this while its broker is not up yet."""
    return library.startswith(_KAFKA_CLIENTS) and bool(_EXPECTED_AT_START.search(message))
