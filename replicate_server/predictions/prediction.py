"""The state of a prediction, its view in the API, and list pages.

Units: seconds; times that end in `_s` are on the emulator's monotonic clock.
"""

import asyncio
import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

from replicate_server.faults import Fault, FaultKind
from replicate_server.http.request_schema import MODEL, VERSION, Inputs


class Status(StrEnum):
    """Status of a prediction."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"  #: canceled; charged if it had started
    ABORTED = "aborted"  #: its deadline passed before it started


_UNDER_WAY = frozenset({Status.STARTING, Status.PROCESSING})


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One prediction, from creation to removal."""

    id: str
    serial: int  #: grows with every creation
    input: dict[str, Any]  #: as received
    inputs: Inputs
    api_url: str  #: base URL of the API, with `/v1`
    webhook: str | None
    events: frozenset[str]  #: events that the webhook receives
    created_at: datetime
    created_s: float
    deadline_s: float = math.inf  #: of Cancel-After
    deadline_at: datetime | None = None
    faults: dict[FaultKind, Fault] = field(default_factory=dict)

    status: Status = Status.STARTING
    due_s: float = 0.0  #: when its status changes by itself
    started_s: float | None = None
    started_at: datetime | None = None
    ended_s: float | None = None
    hardware_s: float = 0.0  #: reported and charged at least, if it succeeded
    completed_at: datetime | None = None
    seed: int = 0
    logs: str = ""
    error: str | None = None
    output: Any = None
    output_token: str | None = None  #: token in the URL of its file
    is_removed: bool = False  #: input, output and logs are removed
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        """Whether the prediction has ended."""
        return self.status not in _UNDER_WAY

    def is_due(self, now_s: float) -> bool:
        """Return whether its status should have changed by now."""
        return not self.has_ended and now_s >= self.due_s

    @property
    def predict_s(self) -> float | None:
        """Seconds of processing, which are charged; None: not started, or not ended."""
        if self.started_s is None or self.ended_s is None:
            return None
        real_s = self.ended_s - self.started_s
        return max(real_s, self.hardware_s) if self.status is Status.SUCCEEDED else real_s

    def view(self) -> dict[str, Any]:
        """Return the prediction as the API returns it."""
        url = f"{self.api_url}/predictions/{self.id}"
        origin = self.api_url.removesuffix("/v1")
        metrics: dict[str, float] = {}
        if self.ended_s is not None:
            metrics["total_time"] = round(self.ended_s - self.created_s, 6)
            if self.predict_s is not None:
                metrics["predict_time"] = round(self.predict_s, 6)
                metrics["total_time"] = max(metrics.values())
        view: dict[str, Any] = {
            "id": self.id,
            "model": MODEL,
            "version": VERSION,
            "input": {} if self.is_removed else self.input,
            "logs": "" if self.is_removed else self.logs,
            "output": None if self.is_removed else self.output,
            "data_removed": self.is_removed,
            "error": self.error,
            "source": "api",
            "status": str(self.status),
            "created_at": _format_time(self.created_at),
            "started_at": _format_time(self.started_at),
            "completed_at": _format_time(self.completed_at),
            "deployment": None,
            "metrics": metrics,
            "urls": {
                "cancel": f"{url}/cancel",
                "get": url,
                "stream": f"{origin}/stream/{self.id}",
                "web": f"{origin}/p/{self.id}",
            },
        }
        if self.deadline_at is not None:
            view["deadline"] = _format_time(self.deadline_at)
        return view


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Filter and cursor of a list request."""

    after: datetime | None = None  #: created then or later
    before: datetime | None = None  #: created earlier
    older_than: int | None = None  #: a serial
    newer_than: int | None = None

    @classmethod
    def of(cls, parameters: dict[str, str]) -> "ListQuery":
        """Return the query of a URL's parameters.

        Raises:
            ValueError: a time or the cursor is invalid.
        """
        after, before = (_parse_time(parameters.get(f"created_{w}")) for w in ("after", "before"))
        direction, serial = _parse_cursor(parameters.get("cursor"))
        return cls(
            after=after,
            before=before,
            older_than=serial if direction == "p" else None,
            newer_than=serial if direction == "r" else None,
        )


def page(
    predictions: Sequence[Prediction],
    query: ListQuery,
    *,
    size: int,
    api_url: str,
    parameters: dict[str, str],
) -> dict[str, Any]:
    """Return a page of predictions, newest first; `predictions` is in creation order."""
    matching = [item for item in reversed(predictions) if _matches(item, query)]
    if query.newer_than is not None:
        newer = [item for item in matching if item.serial > query.newer_than]
        shown = newer[-size:]
    else:
        limit = math.inf if query.older_than is None else query.older_than
        shown = [item for item in matching if item.serial < limit][:size]
    links: dict[str, str | None] = {"next": None, "previous": None}
    if shown and matching[-1].serial < shown[-1].serial:
        links["next"] = _link(api_url, parameters, f"p={shown[-1].serial}")
    if shown and matching[0].serial > shown[0].serial:
        links["previous"] = _link(api_url, parameters, f"r={shown[0].serial}")
    return {**links, "results": [item.view() for item in shown]}


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time needs a UTC offset")
    return time


def _parse_cursor(cursor: str | None) -> tuple[str, int]:
    """Return the direction of a cursor and its serial."""
    if cursor is None:
        return "", 0
    try:
        direction, _, serial = base64.urlsafe_b64decode(cursor).decode().partition("=")
        return direction, int(serial)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("invalid cursor") from error


def _matches(prediction: Prediction, query: ListQuery) -> bool:
    return (query.after is None or prediction.created_at >= query.after) and (
        query.before is None or prediction.created_at < query.before
    )


def _link(api_url: str, parameters: dict[str, str], position: str) -> str:
    cursor = base64.urlsafe_b64encode(position.encode()).decode()
    return f"{api_url}/predictions?{urlencode({**parameters, 'cursor': cursor})}"


def _format_time(time: datetime | None) -> str | None:
    if time is None:
        return None
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
