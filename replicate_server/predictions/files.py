"""Stores outputs under URLs that expire, and fetches inputs.

I/O: HTTP, for inputs. Units: bytes; seconds on the emulator's monotonic clock.
"""

import asyncio
import binascii
import ipaddress
import secrets
from base64 import b64decode
from collections import OrderedDict
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from replicate_server.model.rules import ModelError

PATH = "/delivery"
_FETCH_S = 30.0
_REDIRECTS_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file with a URL."""

    data: bytes
    content_type: str
    expires_s: float  #: from then on its URL is 404


class OutputStore:
    """Outputs, oldest first; beyond `bytes_max` the oldest are removed."""

    def __init__(self, *, bytes_max: int) -> None:
        self._outputs: OrderedDict[str, Output] = OrderedDict()
        self._bytes_max = bytes_max
        self._bytes = 0

    def put(self, output: Output) -> str:
        """Store an output; return the token of its URL."""
        token = secrets.token_urlsafe(24)
        self._outputs[token] = output
        self._bytes += len(output.data)
        while self._bytes > self._bytes_max and len(self._outputs) > 1:
            self._bytes -= len(self._outputs.popitem(last=False)[1].data)
        return token

    def get(self, token: str, now_s: float) -> Output | None:
        """Return the output; None if it is unknown or expired."""
        output = self._outputs.get(token)
        return output if output is not None and now_s < output.expires_s else None

    def sweep(self, now_s: float) -> None:
        """Remove the expired outputs."""
        expired = [token for token, output in self._outputs.items() if now_s >= output.expires_s]
        for token in expired:
            self._bytes -= len(self._outputs.pop(token).data)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPolicy:
    """Which inputs may be fetched."""

    origin: str  #: of this emulator, `http://127.0.0.1:PORT`
    bytes_max: int
    loopback: bool  #: whether private addresses are reachable


def origin_of(url: str, policy: InputPolicy) -> str:
    """Return the kind of an input URL: "data", "output" or "url"."""
    if url.startswith("data:"):
        return "data"
    return "output" if url.startswith(f"{policy.origin}{PATH}/") else "url"


async def fetch(url: str, *, policy: InputPolicy, outputs: OutputStore, now_s: float) -> bytes:
    """Return the bytes of an input, fetched once as the model's runner does.

    Raises:
        ModelError: the input is unavailable; the message says why.
    """
    match origin_of(url, policy):
        case "data":
            return _decode_data_url(url)
        case "output":
            token = urlsplit(url).path.split("/")[2]
            output = outputs.get(token, now_s)
            if output is None:
                raise ModelError("HTTP Error 404: Not Found")
            return output.data
        case _:
            return await _download(url, policy)


def _decode_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ModelError("invalid data URL: no comma in it")
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return b64decode(unquote_to_bytes(body), validate=True)
    except binascii.Error as error:
        raise ModelError(f"invalid data URL: {error}") from error


async def _download(url: str, policy: InputPolicy) -> bytes:
    if not policy.loopback and await _is_private(urlsplit(url).hostname or ""):
        raise ModelError("<urlopen error [Errno 111] Connection refused>")
    data = bytearray()
    try:
        async with (
            httpx.AsyncClient(
                timeout=_FETCH_S, follow_redirects=True, max_redirects=_REDIRECTS_MAX
            ) as client,
            client.stream("GET", url) as response,
        ):
            if response.is_error:
                status = f"{response.status_code}: {response.reason_phrase}"
                raise ModelError(f"HTTP Error {status}")
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > policy.bytes_max:
                    raise ModelError(f"input_audio is larger than {policy.bytes_max} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ModelError(f"<urlopen error {type(error).__name__}: {error}>") from error
    return bytes(data)


async def _is_private(host: str) -> bool:
    """Return whether a host has an address that is not global."""
    try:
        results = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return False
    addresses = {str(result[4][0]).partition("%")[0] for result in results}
    return any(not ipaddress.ip_address(address).is_global for address in addresses)
