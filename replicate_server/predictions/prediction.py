"""Predictions: what is known of each, how it is told, and how a list of them is paged.

Units: seconds; names ending in `_s` that are moments count on the fake's monotonic clock. Pure.
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
    """Where a prediction stands."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"  #: stopped; charged if it had begun
    ABORTED = "aborted"  #: its deadline passed before it began


_UNDER_WAY = frozenset({Status.STARTING, Status.PROCESSING})


@dataclass(slots=True, kw_only=True)
class Prediction:
    """One prediction, from its creation until it is forgotten."""

    id: str
    serial: int  #: grows with every creation
    given: dict[str, Any]  #: `input` as it came
    inputs: Inputs
    api_url: str  #: where this API lies, `/v1` included
    webhook: str | None
    events: frozenset[str]  #: of which the webhook wants to hear
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
    completed_at: datetime | None = None
    seed: int = 0
    logs: str = ""
    error: str | None = None
    output: Any = None
    output_token: str | None = None  #: of its file, in its URL
    is_removed: bool = False  #: input, output and logs are gone
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status not in _UNDER_WAY

    def is_due(self, now_s: float) -> bool:
        """Whether its status should have changed by now."""
        return not self.is_over and now_s >= self.due_s

    @property
    def predict_s(self) -> float | None:
        """Seconds of work, which is what costs; None: it has not worked, or still does."""
        if self.started_s is None or self.ended_s is None:
            return None
        return self.ended_s - self.started_s

    def view(self) -> dict[str, Any]:
        """As the API tells it."""
        url = f"{self.api_url}/predictions/{self.id}"
        origin = self.api_url.removesuffix("/v1")
        metrics: dict[str, float] = {}
        if self.ended_s is not None:
            metrics["total_time"] = round(self.ended_s - self.created_s, 6)
            if self.predict_s is not None:
                metrics["predict_time"] = round(self.predict_s, 6)
        told: dict[str, Any] = {
            "id": self.id,
            "model": MODEL,
            "version": VERSION,
            "input": {} if self.is_removed else self.given,
            "logs": "" if self.is_removed else self.logs,
            "output": None if self.is_removed else self.output,
            "data_removed": self.is_removed,
            "error": self.error,
            "source": "api",
            "status": str(self.status),
            "created_at": _written(self.created_at),
            "started_at": _written(self.started_at),
            "completed_at": _written(self.completed_at),
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
            told["deadline"] = _written(self.deadline_at)
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which page of the list is wanted."""

    after: datetime | None = None  #: created then or later
    before: datetime | None = None  #: created earlier
    older_than: int | None = None  #: a serial
    newer_than: int | None = None

    @classmethod
    def of(cls, parameters: dict[str, str]) -> "ListQuery":
        """The query in a URL's parameters.

        Raises:
            ValueError: a moment or the cursor is none.
        """
        after, before = (_moment(parameters.get(f"created_{w}")) for w in ("after", "before"))
        way, serial = _place(parameters.get("cursor"))
        return cls(
            after=after,
            before=before,
            older_than=serial if way == "p" else None,
            newer_than=serial if way == "r" else None,
        )


def page(
    kept: Sequence[Prediction],
    query: ListQuery,
    *,
    size: int,
    api_url: str,
    parameters: dict[str, str],
) -> dict[str, Any]:
    """A page of predictions, newest first; `kept` is in the order of creation."""
    chosen = [one for one in reversed(kept) if _is_wanted(one, query)]
    if query.newer_than is not None:
        newer = [one for one in chosen if one.serial > query.newer_than]
        shown = newer[-size:]
    else:
        limit = math.inf if query.older_than is None else query.older_than
        shown = [one for one in chosen if one.serial < limit][:size]
    links: dict[str, str | None] = {"next": None, "previous": None}
    if shown and chosen[-1].serial < shown[-1].serial:
        links["next"] = _link(api_url, parameters, f"p={shown[-1].serial}")
    if shown and chosen[0].serial > shown[0].serial:
        links["previous"] = _link(api_url, parameters, f"r={shown[0].serial}")
    return {**links, "results": [one.view() for one in shown]}


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a moment needs its offset from UTC")
    return moment


def _place(cursor: str | None) -> tuple[str, int]:
    """Which way a cursor goes, and from which serial."""
    if cursor is None:
        return "", 0
    try:
        way, _, serial = base64.urlsafe_b64decode(cursor).decode().partition("=")
        return way, int(serial)
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("the cursor is not ours") from error


def _is_wanted(one: Prediction, query: ListQuery) -> bool:
    return (query.after is None or one.created_at >= query.after) and (
        query.before is None or one.created_at < query.before
    )


def _link(api_url: str, parameters: dict[str, str], place: str) -> str:
    cursor = base64.urlsafe_b64encode(place.encode()).decode()
    return f"{api_url}/predictions?{urlencode({**parameters, 'cursor': cursor})}"


def _written(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
