"""Parses Replicate's responses tolerantly: missing fields are None, unknown ones ignored.

Recorded responses differ by model and by year (`output` alone is a string, a list, a `data:` URL,
an object or null), so only the id is required.

Pure.
"""

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.http.retry_after import parse_retry_after

RUNNING = frozenset({"starting", "processing"})
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
WORK_S_MAX = 86_400.0  #: a prediction runs for half an hour at most; more is an error, and unknown
_MESSAGE_CHARS_MAX = 500
_SECONDS = re.compile(r"~?\s*(\d{1,5}(?:\.\d{1,3})?)\s*s(?:ec(?:ond)?s?)?\b")


def _moment(value: Any) -> datetime | None:
    """Return an ISO 8601 time, in UTC if it has no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return an error of any JSON type as text."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)[:_MESSAGE_CHARS_MAX]


Moment = Annotated[datetime | None, BeforeValidator(_moment)]
Table = Annotated[dict[str, Any], BeforeValidator(_table)]


class ApiPrediction(BaseModel):
    """A prediction as the API returns it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]  #: it becomes part of a URL
    status: Annotated[str, BeforeValidator(lambda v: v if isinstance(v, str) else "")] = ""
    input: Table = {}
    output: Any = None
    error: Annotated[str | None, BeforeValidator(_text)] = None
    created_at: Moment = None
    started_at: Moment = None
    completed_at: Moment = None
    data_removed: Annotated[bool, BeforeValidator(bool)] = False
    metrics: Table = {}

    @property
    def work_s(self) -> float | None:
        """Return the reported compute seconds; otherwise those between start and end."""
        seconds = self.metrics.get("predict_time")
        if (
            isinstance(seconds, int | float)
            and not isinstance(seconds, bool)
            and 0 <= seconds <= WORK_S_MAX
        ):
            return float(seconds)
        if self.started_at is None or self.completed_at is None:
            return None
        lasted_s = (self.completed_at - self.started_at).total_seconds()
        return max(0.0, lasted_s) if lasted_s <= WORK_S_MAX else None

    @property
    def output_url(self) -> str | None:
        """Return the output's `https:`, `http:` or `data:` URL; None if there is none."""
        output = self.output[0] if isinstance(self.output, list) and self.output else self.output
        if isinstance(output, dict):
            output = next((v for v in output.values() if isinstance(v, str)), None)
        if not isinstance(output, str):
            return None
        return output if output.lower().startswith("data:") or _is_web_url(output) else None


def _is_web_url(url: str) -> bool:
    """Return whether it is an http(s) URL with a host and a possible port."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, negative or too large
        return False


class Page(BaseModel):
    """A page of predictions, newest first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    results: list[dict[str, Any]]
    next: str | None = None


def error_message(status: int, body: bytes) -> str:
    """Return the provider's own error message, shortened; its status if there is none."""
    fields = _object(body)
    parts = [str(fields[key]) for key in ("title", "detail") if fields.get(key)]
    return (": ".join(parts) or f"HTTP {status}")[:_MESSAGE_CHARS_MAX]


def retry_after_s(body: bytes, header: str | None, *, now: datetime) -> float | None:
    """Return the requested wait from the body's field, the header or the message; None if none."""
    fields = _object(body)
    for value in (fields.get("retry_after"), header):
        if (seconds := parse_retry_after(value, now=now)) is not None:
            return seconds
    match = _SECONDS.search(str(fields.get("detail", "")))
    return parse_retry_after(match.group(1), now=now) if match else None


def parse_data_url(url: str) -> tuple[bytes, str] | None:
    """Return the bytes and media type of a base64 `data:` URL; None if it is invalid."""
    head, comma, body = url[len("data:") :].partition(",")
    if not comma or not head.endswith(";base64"):
        return None
    try:
        return base64.b64decode(body, validate=True), head.split(";")[0]
    except (binascii.Error, ValueError):
        return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        return _table(json.loads(body))
    except ValueError:
        return {}
