"""Client of Replicate's HTTP API: create, get, list, cancel, and download an output.

Three errors separate requests that may have cost money from those that cannot have: an error
response (`ResponseError`), a request that was never sent (`NotSentError`), and a lost response
(`LostError`). A creation is never retried here: the API has no idempotency key, so after a lost
response the caller reads the list of predictions first. The key is sent to the API and to
Replicate's own file hosts only.

I/O: HTTP; every request has a deadline and a limit of bytes.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from services.generator.providers.replicate.models import (
    ApiPrediction,
    Page,
    error_message,
    retry_after_s,
)
from services.generator.providers.replicate.settings import ReplicateSettings
from shared.clock import Clock
from shared.errors import SegueError
from shared.http.minimum_rate import TooSlowError, at_minimum_rate
from shared.telemetry import trace

M = TypeVar("M", Page, ApiPrediction)

_BODY_BYTES_MAX = 64_000_000  # a page of a hundred predictions that each repeat a data URL
_DELIVERY = "replicate.delivery"
_RATE_BYTES_PER_S_MIN = 16 * 1024  # of an output; music is 12 KiB per second at 96 kb/s
_CONNECT_TIMEOUT_S = 5.0
_HEAD_TIMEOUT_S = 2.0  # runs between claim and payment
# Errors after which nothing has reached the server.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class ApiError(SegueError):
    """A request failed."""


class ResponseError(ApiError):
    """The API returned an error response."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} (HTTP {status})")
        self.status = status
        self.message = message  #: the provider's own message
        self.retry_after_s = retry_after_s


class NotSentError(ApiError):
    """The request was not sent."""


class LostError(ApiError):
    """The request was sent, and no readable response came back."""


class ReplicateApi:
    """Typed calls over one connection pool."""

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
            timeout=httpx.Timeout(
                settings.request_timeout_s, connect=_CONNECT_TIMEOUT_S, pool=_CONNECT_TIMEOUT_S
            ),
            follow_redirects=False,
            headers={"User-Agent": "segue-generator"},
            transport=transport,
        )

    async def create(self, body: Mapping[str, Any], *, cancel_after_s: float) -> ApiPrediction:
        """Create a prediction. This step costs money.

        Raises:
            NotSentError: nothing was created.
            ResponseError: rejected; below status 500 nothing was created.
            LostError: a prediction may have been created.
        """
        body_bytes = await self._call(
            "POST",
            "predictions",
            json=body,
            headers={"Cancel-After": f"{max(5, int(cancel_after_s))}s"},
        )
        return _parse(ApiPrediction, body_bytes)

    async def get(self, prediction_id: str) -> ApiPrediction:
        """Return the prediction's current state."""
        return _parse(ApiPrediction, await self._call("GET", _path(prediction_id)))

    async def cancel(self, prediction_id: str) -> ApiPrediction:
        """Request the prediction's cancellation; return its state afterwards."""
        body_bytes = await self._call("POST", f"{_path(prediction_id)}/cancel")
        return _parse(ApiPrediction, body_bytes)

    async def account(self) -> None:
        """Return if the key is accepted."""
        await self._call("GET", "account")

    async def list_since(self, moment: datetime, *, pages_max: int) -> AsyncIterator[ApiPrediction]:
        """Yield the predictions created since `moment`, newest first; skip unreadable ones.

        Raises:
            LostError: there are more than `pages_max` pages.
        """
        params = {"created_after": moment.astimezone(UTC).isoformat().replace("+00:00", "Z")}
        for _ in range(pages_max):
            page = _parse(Page, await self._call("GET", "predictions", params=params))
            for fields in page.results:
                try:
                    prediction = ApiPrediction.model_validate(fields)
                except ValidationError:
                    continue
                if prediction.created_at is not None and prediction.created_at < moment:
                    return
                yield prediction
            if page.next is None:
                return
            # only its query is used: the key must not be sent to another host
            next_params = dict(httpx.URL(page.next).params)
            if not next_params or next_params == params:
                return
            params = next_params
        raise LostError(f"the list of predictions has more than {pages_max} pages")

    async def is_alive(self, url: str) -> bool:
        """Return whether an output can still be fetched; False if there is no timely response."""
        try:
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                response = await self._client.head(url, headers=self._key_for(httpx.URL(url)))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError):
            return False
        return response.status_code == HTTPStatus.OK

    def is_provider_host(self, url: str) -> bool:
        """Return whether `url` is on one of the provider's file hosts."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            return False
        if parsed.scheme == "https" and (
            parsed.host == _DELIVERY or parsed.host.endswith(f".{_DELIVERY}")
        ):
            return True
        return _origin(parsed) == _origin(self._base)

    async def download(self, url: str) -> tuple[bytes, str | None]:
        """Return the bytes at `url` and their declared media type.

        Raises:
            ApiError: the download was incomplete or too large.
        """
        limit = self._settings.download_bytes_max
        seconds = self._settings.download_timeout_s
        headers = {"Accept-Encoding": "identity", **self._key_for(httpx.URL(url))}
        with trace.span("GET output", _span_attributes("GET", httpx.URL(url)), kind="client"):
            async with self._request("GET", url, seconds=seconds, headers=headers) as response:
                chunks = at_minimum_rate(response.aiter_bytes(), bytes_per_s=_RATE_BYTES_PER_S_MIN)
                data = await _read_bytes(chunks, limit)
                if not response.is_success:
                    raise self._error_of(response, data)
                media_type = response.headers.get("content-type", "").split(";")[0].strip()
                return data, media_type.lower() or None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _call(self, method: str, path: str, **more: Any) -> bytes:
        """Return the body of a successful response; send the key, follow no redirect."""
        url = self._base.join(path)
        headers = {**self._key_for(url), **more.pop("headers", {})}
        seconds = self._settings.request_timeout_s
        with trace.span(
            f"{method} {path.split('/', maxsplit=1)[0]}",
            _span_attributes(method, url),
            kind="client",
        ):
            async with self._request(
                method, url, seconds=seconds, headers=headers, **more
            ) as response:
                data = await _read_bytes(response.aiter_bytes(), _BODY_BYTES_MAX)
                if not response.is_success:
                    raise self._error_of(response, data)
                return data

    @asynccontextmanager
    async def _request(
        self, method: str, url: httpx.URL | str, *, seconds: float, **more: Any
    ) -> AsyncIterator[httpx.Response]:
        """Yield the open response; raise an `ApiError` for every transport error."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(method, url, **more) as response,
            ):
                yield response
        except (*_UNSENT, httpx.InvalidURL) as error:
            raise NotSentError(f"Replicate is unreachable: {error!r}") from error
        except (httpx.HTTPError, TimeoutError, TooSlowError) as error:
            raise LostError(f"no response from Replicate: {error!r}") from error

    def _error_of(self, response: httpx.Response, body: bytes) -> ResponseError:
        wait_s = retry_after_s(body, response.headers.get("retry-after"), now=self._clock.now())
        message = error_message(response.status_code, body)
        return ResponseError(response.status_code, message, retry_after_s=wait_s)

    def _key_for(self, url: httpx.URL) -> dict[str, str]:
        key = self._settings.key.get_secret_value()
        return {"Authorization": f"Bearer {key}"} if key and self.is_provider_host(str(url)) else {}


def _span_attributes(method: str, url: httpx.URL) -> dict[str, str | int | None]:
    """Return the attributes of a request's span; the path may be a credential and is left out."""
    return {"http.request.method": method, "server.address": url.host, "server.port": url.port}


def _path(prediction_id: str) -> str:
    if not prediction_id.replace("-", "").replace("_", "").isalnum():
        raise ResponseError(HTTPStatus.NOT_FOUND, "invalid prediction id")
    return f"predictions/{prediction_id}"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


async def _read_bytes(body: AsyncIterable[bytes], limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > limit:
            raise LostError(f"response larger than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _parse(model: type[M], data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise LostError(f"unreadable response: {data[:100]!r}") from error
