"""Replicate's HTTP API: create, get, list, cancel, and the download of an output.

What may have cost money is told apart from what cannot have: an answer (`AnswerError`), a
request that never left (`NotSentError`), and silence after it left (`LostError`). A creation is
never repeated here: the API knows no idempotency key, so whoever lost an answer looks through
the list first. The key goes to the API and to Replicate's own file hosts, to nobody else.

I/O: HTTP; every request has a deadline and a limit of bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from services.generator.providers.replicate.models import (
    Page,
    PredictionAnswer,
    retry_after_s,
    words_of,
)
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.errors import SegueError
from shared.telemetry import trace

M = TypeVar("M", Page, PredictionAnswer)

_BODY_BYTES_MAX = 64_000_000  # a page of a hundred predictions that each repeat a data URL
_DELIVERY = "replicate.delivery"
_CONNECT_S = 5.0
_HEAD_S = 2.0  # it comes between claim and payment
# Nothing of these requests has reached the other side.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class ApiError(SegueError):
    """A request did not lead to what it was made for."""


class AnswerError(ApiError):
    """The API answered, and not with success."""

    def __init__(self, status: int, words: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{words} (HTTP {status})")
        self.status = status
        self.words = words  #: the provider's
        self.retry_after_s = retry_after_s


class NotSentError(ApiError):
    """The request never reached the provider."""


class LostError(ApiError):
    """The request left, and no answer that can be read came back."""


class ReplicateApi:
    """Typed calls on one connection pool."""

    def __init__(
        self,
        settings: ReplicateSettings,
        *,
        clock: Clock,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._base = httpx.URL(settings.base_url.rstrip("/") + "/")
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(settings.request_timeout_s, connect=_CONNECT_S, pool=_CONNECT_S),
            follow_redirects=False,
            headers={"User-Agent": "segue-generator"},
            transport=transport,
        )

    async def create(self, body: Mapping[str, Any], *, cancel_after_s: float) -> PredictionAnswer:
        """The paid step.

        Raises:
            NotSentError: nothing was created.
            AnswerError: refused; below 500 nothing was created.
            LostError: it may have been.
        """
        told = await self._call(
            "POST",
            "predictions",
            json=body,
            headers={"Cancel-After": f"{max(5, int(cancel_after_s))}s"},
        )
        return _read(PredictionAnswer, told)

    async def get(self, prediction_id: str) -> PredictionAnswer:
        """The prediction as it stands."""
        return _read(PredictionAnswer, await self._call("GET", _path(prediction_id)))

    async def cancel(self, prediction_id: str) -> PredictionAnswer:
        """Ask for the prediction to stop; how it stands after that."""
        told = await self._call("POST", f"{_path(prediction_id)}/cancel")
        return _read(PredictionAnswer, told)

    async def account(self) -> None:
        """Return if the key works."""
        await self._call("GET", "account")

    async def since(self, moment: datetime, *, pages_max: int) -> AsyncIterator[PredictionAnswer]:
        """The predictions created since, newest first; what cannot be read is passed over.

        Raises:
            LostError: there are more than `pages_max` pages of them.
        """
        params = {"created_after": moment.astimezone(UTC).isoformat().replace("+00:00", "Z")}
        for _ in range(pages_max):
            page = _read(Page, await self._call("GET", "predictions", params=params))
            for told in page.results:
                try:
                    found = PredictionAnswer.model_validate(told)
                except ValidationError:
                    continue
                if found.created_at is not None and found.created_at < moment:
                    return
                yield found
            if page.next is None:
                return
            # only its query counts: the key must not follow a URL to wherever it leads
            following = dict(httpx.URL(page.next).params)
            if not following or following == params:
                return
            params = following
        raise LostError(f"more than {pages_max} pages of predictions")

    async def is_alive(self, url: str) -> bool:
        """Whether an output can still be fetched; no answer in time counts as no."""
        try:
            async with asyncio.timeout(_HEAD_S):
                answer = await self._client.head(url, headers=self._key_for(httpx.URL(url)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return False
        return answer.status_code == HTTPStatus.OK

    def is_ours(self, url: str) -> bool:
        """Whether `url` lies on a file host of the provider."""
        try:
            place = httpx.URL(url)
        except httpx.InvalidURL:
            return False
        if place.scheme == "https" and (
            place.host == _DELIVERY or place.host.endswith(f".{_DELIVERY}")
        ):
            return True
        return _origin(place) == _origin(self._base)

    async def download(self, url: str) -> tuple[bytes, str | None]:
        """The bytes at `url` and their declared type.

        Raises:
            ApiError: not all of it came, or too much.
        """
        limit = self._settings.download_bytes_max
        seconds = self._settings.download_timeout_s
        headers = {"Accept-Encoding": "identity", **self._key_for(httpx.URL(url))}
        with trace.span("GET output", _about("GET", httpx.URL(url)), kind="client"):
            async with self._answer("GET", url, seconds=seconds, headers=headers) as answer:
                data = await _bytes_of(answer, limit)
                if not answer.is_success:
                    raise self._refusal(answer, data)
                told = answer.headers.get("content-type", "").split(";")[0].strip().lower()
                return data, told or None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, **more: Any) -> bytes:
        """The body of a successful answer; the key is sent, redirects are not followed."""
        url = self._base.join(path)
        headers = {**self._key_for(url), **more.pop("headers", {})}
        seconds = self._settings.request_timeout_s
        with trace.span(
            f"{method} {path.split('/', maxsplit=1)[0]}", _about(method, url), kind="client"
        ):
            async with self._answer(method, url, seconds=seconds, headers=headers, **more) as told:
                data = await _bytes_of(told, _BODY_BYTES_MAX)
                if not told.is_success:
                    raise self._refusal(told, data)
                return data

    @asynccontextmanager
    async def _answer(
        self, method: str, url: httpx.URL | str, *, seconds: float, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """The answer, open for reading; what goes wrong becomes ours."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, url, **more) as answer,
            ):
                yield answer
        except (*_UNSENT, httpx.InvalidURL) as error:
            raise NotSentError(f"Replicate cannot be reached: {error!r}") from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise LostError(f"no answer from Replicate: {error!r}") from error

    def _refusal(self, answer: httpx.Response, body: bytes) -> AnswerError:
        asked_s = retry_after_s(body, answer.headers.get("retry-after"), now=self._clock.now())
        words = words_of(answer.status_code, body)
        return AnswerError(answer.status_code, words, retry_after_s=asked_s)

    def _key_for(self, url: httpx.URL) -> dict[str, str]:
        key = self._settings.key.get_secret_value()
        return {"Authorization": f"Bearer {key}"} if key and self.is_ours(str(url)) else {}


def _about(method: str, url: httpx.URL) -> dict[str, str | int | None]:
    """Of a request, for traces: never its path, which may be a right to read."""
    return {"http.request.method": method, "server.address": url.host, "server.port": url.port}


def _path(prediction_id: str) -> str:
    if not prediction_id.replace("-", "").replace("_", "").isalnum():
        raise AnswerError(HTTPStatus.NOT_FOUND, "this is no prediction's id")
    return f"predictions/{prediction_id}"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _bytes_of(answer: httpx.Response, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.aiter_bytes():
        size += len(chunk)
        if size > limit:
            raise LostError(f"an answer of more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _read(model: type[M], data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise LostError(f"an answer that cannot be read: {data[:100]!r}") from error
