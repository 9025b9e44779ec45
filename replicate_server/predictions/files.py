"""OutputStore: outputs under URLs that die, and inputs fetched from wherever they lie.

I/O: HTTP, for inputs. Units: bytes; seconds on the fake's monotonic clock.
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
    """A file that can be fetched."""

    data: bytes
    content_type: str
    dies_s: float  #: from then on there is nothing at its URL


class OutputStore:
    """The outputs, oldest first; beyond `bytes_max` the oldest go."""

    def __init__(self, *, bytes_max: int) -> None:
        self._outputs: OrderedDict[str, Output] = OrderedDict()
        self._bytes_max = bytes_max
        self._bytes = 0

    def put(self, output: Output) -> str:
        """Keep an output; the token in its URL."""
        token = secrets.token_urlsafe(24)
        self._outputs[token] = output
        self._bytes += len(output.data)
        while self._bytes > self._bytes_max and len(self._outputs) > 1:
            self._bytes -= len(self._outputs.popitem(last=False)[1].data)
        return token

    def get(self, token: str, now_s: float) -> Output | None:
        """The output, while it lives."""
        output = self._outputs.get(token)
        return output if output is not None and now_s < output.dies_s else None

    def sweep(self, now_s: float) -> None:
        """Let go of what is dead."""
        for token in [name for name, one in self._outputs.items() if now_s >= one.dies_s]:
            self._bytes -= len(self._outputs.pop(token).data)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPolicy:
    """What inputs may be fetched, and where our own outputs lie."""

    origin: str  #: our own, `http://127.0.0.1:PORT`
    bytes_max: int
    loopback: bool  #: this machine counts as reachable


def origin_of(url: str, policy: InputPolicy) -> str:
    """Where an input lies: "data", "output" (one of ours) or "url"."""
    if url.startswith("data:"):
        return "data"
    return "output" if url.startswith(f"{policy.origin}{PATH}/") else "url"


async def fetch(url: str, *, policy: InputPolicy, outputs: OutputStore, now_s: float) -> bytes:
    """The bytes of an input, got once, as the model's runner gets them.

    Raises:
        ModelError: it could not be had, and why.
    """
    match origin_of(url, policy):
        case "data":
            return _inside(url)
        case "output":
            token = urlsplit(url).path.split("/")[2]
            output = outputs.get(token, now_s)
            if output is None:
                raise ModelError("HTTP Error 404: Not Found")
            return output.data
        case _:
            return await _download(url, policy)


def _inside(url: str) -> bytes:
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
    if not policy.loopback and await _is_here(urlsplit(url).hostname or ""):
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


async def _is_here(host: str) -> bool:
    """Whether a host is this machine, or one that only this network knows."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return False
    addresses = {str(one[4][0]).partition("%")[0] for one in found}
    return any(not ipaddress.ip_address(address).is_global for address in addresses)
