"""Downloads media from the store or from a URL into a local file.

A URL comes from outside and may target private hosts (SSRF): its host is resolved once, every
address is checked (`address_policy`), and the connection goes to a checked address, so DNS
rebinding gains nothing. Each redirect is checked again. Proxies and .netrc of the environment are
ignored.

A slow server must not delay others: a download has a minimum rate and a deadline, a response a
deadline for its header, and one address serves a limited number of downloads at once.

Units: seconds, bytes. I/O: the network, the store, one file.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from pydantic import Field, field_validator

from shared.contract.params import MediaRef
from shared.errors import MediaError, NotFoundError, RetryableError
from shared.http.address_policy import PrivateHosts, is_public_address
from shared.http.minimum_rate import WINDOW_S, TooSlowError, at_minimum_rate
from shared.http.retry_after import parse_retry_after
from shared.processing.slots import KeyedSlots, Slots
from shared.settings import SettingsGroup
from shared.storage import ObjectStore
from shared.storage.keys import is_own_key

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  #: host, port -> addresses

REDIRECTS_MAX = 3
PORT_MAX = 65_535
_ADDRESSES_MAX = 4  # tried in order until one accepts a connection
_WRITE_BYTES = 1024 * 1024
_STEP_TIMEOUT = httpx.Timeout(30, connect=10)  # of one step; a download has its own deadline
_HEADER_WINDOWS = 3  # of the minimum rate: connection and header of one response
RATE_BYTES_PER_S_MIN = 32 * 1024
HOST_SLOTS, SLOTS = 16, 64
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "segue"}
_BUSY = frozenset({408, 425, 429})
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class FetchGuardSettings(SettingsGroup):
    """Which private hosts a download may reach, and how slow and how many downloads may be."""

    #: comma list of private host names, addresses and CIDRs that downloads may reach
    allowed_private_hosts: str = Field("", validation_alias="SEGUE_FETCH_PRIVATE_HOSTS")

    #: bytes per second; a slower server is given up
    rate_bytes_per_s_min: int = Field(
        RATE_BYTES_PER_S_MIN, ge=0, validation_alias="SEGUE_FETCH_RATE_MIN"
    )
    #: seconds over which the rate is measured
    rate_window_s: float = Field(
        WINDOW_S, gt=0, le=600, validation_alias="SEGUE_FETCH_RATE_WINDOW_S"
    )
    #: concurrent downloads from one address
    host_slots: int = Field(HOST_SLOTS, ge=1, le=1000, validation_alias="SEGUE_FETCH_HOST_SLOTS")
    #: concurrent downloads of this process
    fetch_slots: int = Field(SLOTS, ge=1, le=10_000, validation_alias="SEGUE_FETCH_SLOTS")

    @field_validator("allowed_private_hosts")
    @classmethod
    def _is_valid(cls, text: str) -> str:
        PrivateHosts.parse(text)
        return text

    @property
    def private_hosts(self) -> PrivateHosts:
        """Return `allowed_private_hosts`, parsed."""
        return PrivateHosts.parse(self.allowed_private_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSpec:
    """What is downloaded, how errors name it, and its limits."""

    noun: str  #: as in "the video"
    field: str  #: the request field that names it; errors append `.url` or `.object`
    code: str  #: of the error if it is not available
    bytes_max: int
    bytes_max_setting: str  #: the variable of `bytes_max`
    timeout_s: float  #: for a whole download, redirects included
    rate_bytes_per_s_min: int = RATE_BYTES_PER_S_MIN
    rate_window_s: float = WINDOW_S
    host_slots: int = HOST_SLOTS
    slots: int = SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPart:
    """Some bytes of a medium."""

    start: int
    data: bytes  #: fewer than requested at the end; none if the server sends no parts
    size_bytes: int | None  #: of the whole medium; None: unknown


class _UrlError(Exception):
    """The URL is unusable, and a retry now cannot help."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable  #: whether a new run can help


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of `host` from the system resolver."""
    loop = asyncio.get_running_loop()
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class Fetcher:
    """Downloads a medium within limits of address, size and time."""

    def __init__(
        self,
        store: ObjectStore,
        spec: FetchSpec,
        *,
        private: PrivateHosts,
        resolve: Resolve = resolve,
        verify: ssl.SSLContext | None = None,  #: None: the default authorities
    ) -> None:
        self._store = store
        self._spec = spec
        self._private = private
        self._resolve = resolve
        self._verify = verify
        self._slots = Slots(spec.slots)
        self._host_slots = KeyedSlots(spec.host_slots)

    async def fetch(
        self, ref: MediaRef, target: Path, *, reserve: Callable[[int], None] | None = None
    ) -> None:
        """Download what `ref` names to `target`; call `reserve` before bytes are written.

        Raises:
            MediaError: it does not exist, is not allowed, is too large, or arrives too slowly.
            RetryableError: the server is busy, or the connection failed.
        """
        reserve = reserve or _reserve_nothing
        if ref.object is not None:
            await self._from_store(ref.object, target, reserve)
            return
        assert ref.url is not None, "a reference has a URL or an object key"
        async with (
            self._within(self._spec.timeout_s),
            self._final_response(ref.url, {}) as (response, url),
        ):
            await self._save(response, url, target, reserve)

    async def fetch_part(
        self, ref: MediaRef, *, start: int, size_bytes: int, timeout_s: float
    ) -> MediaPart:
        """Return `size_bytes` from `start` of what `ref` names.

        Raises:
            MediaError: as `fetch`.
            RetryableError: as `fetch`.
        """
        if ref.object is not None:
            return await self._part_from_store(ref.object, start, size_bytes)
        assert ref.url is not None, "a reference has a URL or an object key"
        requested = {"Range": f"bytes={start}-{start + size_bytes - 1}"}
        async with (
            self._within(timeout_s),
            self._final_response(ref.url, requested) as (response, url),
        ):
            return await self._part_of(response, url, start, size_bytes)

    @asynccontextmanager
    async def _within(self, timeout_s: float) -> AsyncIterator[None]:
        """Limit the time and the number of downloads; name the field in errors."""
        field = f"{self._spec.field}.url"
        try:
            async with asyncio.timeout(timeout_s), self._slots:
                yield
        except TimeoutError as error:
            raise RetryableError(f"{field}: not downloaded within {timeout_s:g} s") from error
        except _UrlError as error:
            raise MediaError(
                f"{field}: {error}", code=self._spec.code, retryable=error.retryable
            ) from error
        except RetryableError as error:
            raise RetryableError(f"{field}: {error}", retry_after_s=error.retry_after_s) from error

    async def _from_store(self, key: str, target: Path, reserve: Callable[[int], None]) -> None:
        reserve(await self._check_object(key))
        try:
            await self._store.get_file(key, target)
        except NotFoundError as error:
            raise self._not_found(key) from error

    async def _part_from_store(self, key: str, start: int, size_bytes: int) -> MediaPart:
        whole = await self._check_object(key)
        data = bytearray()
        if start < whole:
            end = min(start + size_bytes, whole)
            async for chunk in self._store.stream(key, start=start, end=end):
                data += chunk
        return MediaPart(start=start, data=bytes(data), size_bytes=whole)

    async def _check_object(self, key: str) -> int:
        """Return the size of an uploaded object that exists and is not too large."""
        field = self._spec.field
        if is_own_key(key):  # another job's track, named by a client
            raise MediaError(
                f"{field}.object: {key[:200]!r} is not an uploaded file; upload the "
                f"{self._spec.noun}, or set {field}.url",
                code=self._spec.code,
            )
        try:
            stat = await self._store.stat(key)
        except ValueError as error:
            raise self._not_found(key) from error
        if stat is None:
            raise self._not_found(key)
        if stat.size_bytes > self._spec.bytes_max:
            raise MediaError(f"{field}.object: {self._too_large(stat.size_bytes)}")
        return stat.size_bytes

    def _not_found(self, key: str) -> MediaError:
        field = self._spec.field
        return MediaError(
            f"{field}.object: object not found: {key[:200]!r}; upload the "
            f"{self._spec.noun} again, or set {field}.url",
            code=self._spec.code,
        )

    @asynccontextmanager
    async def _final_response(
        self, text: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[httpx.Response, httpx.URL]]:
        """Return the response after redirects, its body unread, and its URL."""
        url = _parsed(text)
        # a reused connection would serve other hosts of its address without a certificate check
        limits = httpx.Limits(max_keepalive_connections=0)
        # the bare transport: no cookies, proxies, .netrc or automatic redirects
        async with httpx.AsyncHTTPTransport(
            verify=self._verify or True, trust_env=False, limits=limits
        ) as http:
            for _ in range(REDIRECTS_MAX + 1):
                async with self._response(http, url, headers) as response:
                    if not response.has_redirect_location:
                        yield response, url
                        return
                    url = _parsed(str(_joined(url, response.headers["location"])))
        raise _UrlError(f"more than {REDIRECTS_MAX} redirects; use the final address")

    @asynccontextmanager
    async def _response(
        self, http: httpx.AsyncHTTPTransport, url: httpx.URL, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Return the response of a checked address, its body unread."""
        refused: httpx.TransportError | None = None
        header_s = _HEADER_WINDOWS * self._spec.rate_window_s
        for address in await self._addresses(url):
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), **_HEADERS, **headers},
                extensions={
                    "sni_hostname": url.raw_host.decode("ascii"),
                    "timeout": _STEP_TIMEOUT.as_dict(),
                },
            )
            async with self._host_slots.taken((address, url.port)):
                try:
                    async with asyncio.timeout(header_s):
                        response = await http.handle_async_request(request)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    refused = error
                    continue
                except TimeoutError as error:
                    raise RetryableError(f"{url.host} did not respond in {header_s:g} s") from error
                except httpx.TransportError as error:
                    raise _broken(url, error) from error
                try:
                    yield response
                except httpx.TransportError as error:
                    raise _broken(url, error) from error
                finally:
                    await response.aclose()
                return
        assert refused is not None, "a host has at least one address"
        raise _broken(url, refused) from refused

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Return the addresses to connect to; all of them passed the check."""
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = (await self._resolve(host, port))[:_ADDRESSES_MAX]
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_HOST:
                raise _UrlError(f"host not found: {host}") from error
            raise RetryableError(f"cannot resolve {host} now") from error
        except (OSError, UnicodeError) as error:
            raise _UrlError(f"invalid host name: {host[:100]}") from error
        for address in addresses:
            if not is_public_address(address) and not self._private.allow(host, address):
                raise _UrlError(
                    f"{host} resolves to a private address; upload the {self._spec.noun}, "
                    "or allow the host in SEGUE_FETCH_PRIVATE_HOSTS"
                )
        return addresses

    async def _save(
        self, response: httpx.Response, url: httpx.URL, target: Path, reserve: Callable[[int], None]
    ) -> None:
        _check_status(response, url)
        self._check_length(response)
        size_bytes, pending = 0, bytearray()
        chunks = at_minimum_rate(
            response.aiter_raw(),
            bytes_per_s=self._spec.rate_bytes_per_s_min,
            window_s=self._spec.rate_window_s,
        )
        with target.open("wb") as file:
            try:
                async for chunk in chunks:
                    size_bytes += len(chunk)
                    if size_bytes > self._spec.bytes_max:
                        raise _UrlError(self._too_large(size_bytes))
                    reserve(len(chunk))
                    pending += chunk
                    if len(pending) >= _WRITE_BYTES:
                        await asyncio.to_thread(file.write, bytes(pending))
                        pending.clear()
            except TooSlowError as error:
                raise _UrlError(
                    f"{url.host} sends too slowly: {error}; upload the {self._spec.noun}",
                    retryable=True,
                ) from error
            await asyncio.to_thread(file.write, bytes(pending))

    async def _part_of(
        self, response: httpx.Response, url: httpx.URL, start: int, size_bytes: int
    ) -> MediaPart:
        """Return the part that the response has; none if the server ignored `start`."""
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return MediaPart(start=start, data=b"", size_bytes=None)  # it ends before `start`
        is_part = response.status_code == HTTPStatus.PARTIAL_CONTENT
        if not is_part:
            _check_status(response, url)
        length = self._check_length(response)
        data = bytearray()
        if is_part or start == 0:
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) >= size_bytes:
                    break
        return MediaPart(start=start, data=bytes(data[:size_bytes]), size_bytes=length)

    def _check_length(self, response: httpx.Response) -> int | None:
        """Return the length of the medium that the header states; None: it states none."""
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            text = response.headers.get("content-range", "").rpartition("/")[2]
        else:
            text = response.headers.get("content-length", "")
        length = int(text) if text.isdecimal() else None
        if length is not None and length > self._spec.bytes_max:
            raise _UrlError(self._too_large(length))
        return length

    def _too_large(self, size_bytes: int) -> str:
        return (
            f"the {self._spec.noun} is too large: {size_bytes} bytes or more, limit "
            f"{self._spec.bytes_max} ({self._spec.bytes_max_setting})"
        )


def _reserve_nothing(_size_bytes: int) -> None:
    """Reserve nothing."""


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _UrlError(f"invalid URL ({error})") from error
    if url.scheme not in {"http", "https"} or not url.raw_host:
        raise _UrlError("must be an http or https URL with a host")
    if url.port is not None and not 1 <= url.port <= PORT_MAX:
        raise _UrlError(f"invalid URL (port {url.port}; ports are 1 to {PORT_MAX})")
    return url


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _UrlError(f"{url.host} redirects to an invalid URL ({error})") from error


def _check_status(response: httpx.Response, url: httpx.URL) -> None:
    status = response.status_code
    if status in _BUSY or response.is_server_error:
        raise RetryableError(
            f"{url.host} returned {status}", retry_after_s=_retry_after_s(response)
        )
    if status != HTTPStatus.OK:
        raise _UrlError(
            f"{url.host} returned {status} {response.reason_phrase}".rstrip()
            + "; the URL must be readable without credentials"
        )
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _UrlError(f"{url.host} compressed the file despite Accept-Encoding: identity")


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return the seconds to wait; a date counts from the response's own."""
    try:
        now = parsedate_to_datetime(response.headers["date"])
    except (KeyError, ValueError):
        now = None
    return parse_retry_after(response.headers.get("retry-after"), now=now)


def _broken(url: httpx.URL, error: httpx.TransportError) -> _UrlError | RetryableError:
    """Return the error of a failed connection: an invalid certificate is final."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _UrlError(f"invalid certificate of {url.host} ({cause.reason})")
        cause = cause.__cause__ or cause.__context__
    return RetryableError(f"connection to {url.host} failed ({type(error).__name__})")
