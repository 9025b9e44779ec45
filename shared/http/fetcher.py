"""Fetching: media that others name, from the store or from a URL, into a local file.

A URL comes from outside and may be meant to reach inside: its host is resolved once, every
address is judged (`addresses`), and the connection goes to a judged address, so a name that
answers differently the second time gains nothing. Redirects are followed by hand and judged
again. Nothing of the environment (proxies, .netrc) takes part.

Units: seconds, bytes. I/O: the network, the store, one file.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from pydantic import Field, field_validator

from shared.contract.params import MediaRef
from shared.errors import MediaError, NotFoundError, RetryableError
from shared.http.address_policy import PrivateHosts, is_public
from shared.settings import SettingsGroup
from shared.storage import ObjectStore

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  #: host, port -> addresses

REDIRECTS_MAX = 3
_ADDRESSES_MAX = 4  # tried one after the other when they do not answer
_CHUNK_BYTES = 1024 * 1024
_WAIT = httpx.Timeout(30, connect=10)  # for one step; the whole has its own deadline
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "segue"}
_RETRY_AFTER_S_MAX = 3600.0
_BUSY = frozenset({408, 425, 429})
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


class GuardSettings(SettingsGroup):
    """Which hosts inside this network may be asked all the same."""

    #: comma list of host names, addresses and CIDRs inside this network that may be asked
    allowed_private_hosts: str = Field("", validation_alias="SEGUE_FETCH_PRIVATE_HOSTS")

    @field_validator("allowed_private_hosts")
    @classmethod
    def _can_be_read(cls, text: str) -> str:
        PrivateHosts.parse(text)
        return text

    @property
    def private_hosts(self) -> PrivateHosts:
        """`allowed_private_hosts`, read."""
        return PrivateHosts.parse(self.allowed_private_hosts)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSpec:
    """What is fetched, in the words of whoever asked for it, and its bounds."""

    noun: str  #: as in "the video"
    field: str  #: where it was named; `.url` or `.object` is put behind it
    code: str  #: of the error, where it cannot be had
    bytes_max: int
    bytes_max_setting: str  #: the variable that says so
    timeout_s: float  #: for a whole download, redirects included


class _UrlError(Exception):
    """What the URL names cannot be had, and asking again would not help."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of `host`, as the machine's resolver tells them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Fetcher:
    """Brings a medium here, inside bounds of place, size and time."""

    def __init__(
        self,
        store: ObjectStore,
        wanted: FetchSpec,
        *,
        private: PrivateHosts,
        resolve: Resolve = resolve,
        verify: ssl.SSLContext | None = None,  #: None: the usual authorities
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._private = private
        self._resolve = resolve
        self._verify = verify

    async def fetch(self, ref: MediaRef, target: Path) -> None:
        """Write what `ref` names to `target`.

        Raises:
            MediaError: there is none, it may not be fetched, or it is too large.
            RetryableError: the other side is busy, or broke off.
        """
        if ref.object is not None:
            await self._from_store(ref.object, target)
            return
        assert ref.url is not None, "a reference names one of both"
        field, limit_s = f"{self._wanted.field}.url", self._wanted.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self._from_url(ref.url, target)
        except TimeoutError as error:
            told = f"{field}: no whole {self._wanted.noun} within {limit_s:g} s"
            raise RetryableError(told) from error
        except _UrlError as error:
            raise MediaError(f"{field}: {error}", code=self._wanted.code) from error
        except RetryableError as error:
            raise RetryableError(f"{field}: {error}", retry_after_s=error.retry_after_s) from error

    async def _from_store(self, key: str, target: Path) -> None:
        field = self._wanted.field
        try:
            found = await self._store.stat(key)
            if found is not None and found.size_bytes > self._wanted.bytes_max:
                raise MediaError(f"{field}.object: {self._too_large(found.size_bytes)}")
            await self._store.get_file(key, target)
        except (NotFoundError, ValueError) as error:
            raise MediaError(
                f"{field}.object: there is no object {key[:200]!r} in the store; hand the "
                f"{self._wanted.noun} in again, or name it by {field}.url",
                code=self._wanted.code,
            ) from error

    async def _from_url(self, text: str, target: Path) -> None:
        url = _parsed(text)
        # a kept connection would be shared by hosts of one address, past their certificates
        limits = httpx.Limits(max_keepalive_connections=0)
        # the bare transport: no cookies, no proxies, no .netrc, no redirects of its own
        async with httpx.AsyncHTTPTransport(
            verify=self._verify or True, trust_env=False, limits=limits
        ) as http:
            for _ in range(REDIRECTS_MAX + 1):
                async with self._answer(http, url) as answer:
                    if not answer.has_redirect_location:
                        await self._save(answer, url, target)
                        return
                    url = _parsed(str(_joined(url, answer.headers["location"])))
        raise _UrlError(f"more than {REDIRECTS_MAX} redirects; name the last address")

    @asynccontextmanager
    async def _answer(
        self, http: httpx.AsyncHTTPTransport, url: httpx.URL
    ) -> AsyncIterator[httpx.Response]:
        """The head of the answer, from an address that was judged; the body is not read."""
        refused: httpx.TransportError | None = None
        for address in await self._addresses(url):
            request = httpx.Request(
                "GET",
                url.copy_with(host=address),
                headers={"Host": url.netloc.decode("ascii"), **_HEADERS},
                extensions={
                    "sni_hostname": url.raw_host.decode("ascii"),
                    "timeout": _WAIT.as_dict(),
                },
            )
            try:
                answer = await http.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = error
                continue
            except httpx.TransportError as error:
                raise _broken(url, error) from error
            try:
                yield answer
            except httpx.TransportError as error:
                raise _broken(url, error) from error
            finally:
                await answer.aclose()
            return
        assert refused is not None, "a host has at least one address"
        raise _broken(url, refused) from refused

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        """Where to connect to; every address of the host was found fit."""
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = (await self._resolve(host, port))[:_ADDRESSES_MAX]
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_HOST:
                raise _UrlError(f"there is no host {host}") from error
            raise RetryableError(f"{host} cannot be looked up now") from error
        except (OSError, UnicodeError) as error:
            raise _UrlError(f"{host[:100]} is no host name") from error
        for address in found:
            if not is_public(address) and not self._private.allow(host, address):
                raise _UrlError(
                    f"{host} is inside this network, where nothing is taken from; hand the "
                    f"{self._wanted.noun} in instead, or list the host in SEGUE_FETCH_PRIVATE_HOSTS"
                )
        return found

    async def _save(self, answer: httpx.Response, url: httpx.URL, target: Path) -> None:
        _check_status(answer, url)
        promised = answer.headers.get("content-length", "")
        if promised.isdecimal() and int(promised) > self._wanted.bytes_max:
            raise _UrlError(self._too_large(int(promised)))
        size_bytes = 0
        with target.open("wb") as file:
            async for chunk in answer.aiter_raw(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > self._wanted.bytes_max:
                    raise _UrlError(self._too_large(size_bytes))
                await asyncio.to_thread(file.write, chunk)

    def _too_large(self, size_bytes: int) -> str:
        return (
            f"the {self._wanted.noun} has {size_bytes} bytes or more, {self._wanted.bytes_max} are "
            f"taken ({self._wanted.bytes_max_setting})"
        )


def _parsed(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _UrlError(f"is not a URL ({error})") from error
    if url.scheme not in {"http", "https"} or not url.raw_host:
        raise _UrlError("must be an http or https address with a host")
    return url


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _UrlError(f"{url.host} redirects to no URL ({error})") from error


def _check_status(answer: httpx.Response, url: httpx.URL) -> None:
    status = answer.status_code
    if status in _BUSY or answer.is_server_error:
        raise RetryableError(f"{url.host} answered {status}", retry_after_s=_retry_after_s(answer))
    if status != HTTPStatus.OK:
        raise _UrlError(
            f"{url.host} answered {status} {answer.reason_phrase}".rstrip()
            + "; the address must give the file to anyone who asks"
        )
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise _UrlError(f"{url.host} sends the file compressed, though it was asked not to")


def _retry_after_s(answer: httpx.Response) -> float | None:
    """Seconds the other side asked for; a date counts from the answer's own."""
    asked = answer.headers.get("retry-after", "")
    if asked.isdecimal():
        return min(float(asked), _RETRY_AFTER_S_MAX)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        moments = parsedate_to_datetime(asked), parsedate_to_datetime(answer.headers["date"])
        return min(max((moments[0] - moments[1]).total_seconds(), 0.0), _RETRY_AFTER_S_MAX)
    return None


def _broken(url: httpx.URL, error: httpx.TransportError) -> _UrlError | RetryableError:
    """A fault on the way: a wrong certificate stays wrong, the rest may pass."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _UrlError(f"the certificate of {url.host} does not hold ({cause.reason})")
        cause = cause.__cause__ or cause.__context__
    return RetryableError(f"{url.host} broke off ({type(error).__name__})")
