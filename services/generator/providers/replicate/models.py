"""Replicate's answers, read tolerantly: what is missing is None, what is new is ignored.

Recorded answers differ by model and by year (`output` alone is a text, a list, a `data:` URL,
an object or null), so nothing but the id is asked for.

Pure.
"""

import base64
import binascii
import json
import math
import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from shared.http.retry_after import parse_retry_after

RUNNING = frozenset({"starting", "processing"})
TERMINAL = frozenset({"succeeded", "failed", "canceled", "aborted"})
_WORDS_MAX = 500
_SECONDS = re.compile(r"~?\s*(\d{1,5}(?:\.\d{1,3})?)\s*s(?:ec(?:ond)?s?)?\b")


def _moment(value: Any) -> datetime | None:
    """An ISO moment, in UTC where no zone is said; None for anything else."""
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> str | None:
    """An error as text, whatever it came as."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)[:_WORDS_MAX]


Moment = Annotated[datetime | None, BeforeValidator(_moment)]
Table = Annotated[dict[str, Any], BeforeValidator(_table)]


class PredictionAnswer(BaseModel):
    """A prediction as the API tells it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]  #: it becomes part of a URL
    status: Annotated[str, BeforeValidator(lambda v: v if isinstance(v, str) else "")] = ""
    input: Table = {}
    output: Any = None
    error: Annotated[str | None, BeforeValidator(_words)] = None
    created_at: Moment = None
    started_at: Moment = None
    completed_at: Moment = None
    data_removed: Annotated[bool, BeforeValidator(bool)] = False
    metrics: Table = {}

    @property
    def work_s(self) -> float | None:
        """Seconds that were counted; else those between start and end."""
        told = self.metrics.get("predict_time")
        if isinstance(told, int | float) and not isinstance(told, bool) and 0 <= told < math.inf:
            return float(told)
        if self.started_at is None or self.completed_at is None:
            return None
        return max(0.0, (self.completed_at - self.started_at).total_seconds())

    @property
    def output_url(self) -> str | None:
        """Where the output lies: an `https:`, `http:` or `data:` URL; None: nowhere usable."""
        output = self.output[0] if isinstance(self.output, list) and self.output else self.output
        if isinstance(output, dict):
            output = next((v for v in output.values() if isinstance(v, str)), None)
        if isinstance(output, str) and output.lower().startswith(("https://", "http://", "data:")):
            return output
        return None


class Page(BaseModel):
    """A page of predictions, newest first."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    results: list[dict[str, Any]]
    next: str | None = None


def words_of(status: int, body: bytes) -> str:
    """What the provider says of a refusal, in its own words, and short."""
    told = _object(body)
    parts = [str(told[key]) for key in ("title", "detail") if told.get(key)]
    return (": ".join(parts) or f"HTTP {status}")[:_WORDS_MAX]


def retry_after_s(body: bytes, header: str | None, *, now: datetime) -> float | None:
    """How long to wait: from the body's field, the header, or the words; None: it does not say."""
    told = _object(body)
    for value in (told.get("retry_after"), header):
        if (seconds := parse_retry_after(value, now=now)) is not None:
            return seconds
    found = _SECONDS.search(str(told.get("detail", "")))
    return parse_retry_after(found.group(1), now=now) if found else None


def data_of(url: str) -> tuple[bytes, str] | None:
    """Bytes and media type of a `data:` URL; None if it is none that can be read."""
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
