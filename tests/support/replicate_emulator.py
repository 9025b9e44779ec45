"""The Replicate emulator with a plain HTTP client, and a receiver of its webhooks.

Segue's own client is not used: the tests treat the emulator as the real API.
"""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from replicate_server import EmulatorSettings, ReplicateEmulator
from replicate_server.model.composer import Compose
from services.generator.providers import CompositionRequest
from services.generator.providers.synth.provider import compose
from shared.clock import Clock
from shared.storage import StandInWarning

VERSION = "meta/musicgen:671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"
FRESH = {
    "prompt": "calm piano",
    "model_version": "stereo-large",
    "duration": 3,
    "output_format": "mp3",
    "normalization_strategy": "loudness",
    "seed": 7,
}


@dataclass
class EmulatorFixture:
    """A running emulator and a client with its token."""

    fake: ReplicateEmulator
    http: httpx.AsyncClient

    async def create(
        self,
        headers: dict[str, str] | None = None,
        *,
        keys: dict[str, Any] | None = None,
        **inputs: Any,
    ) -> httpx.Response:
        """Create a prediction with the default inputs and `inputs`."""
        body = {"version": VERSION, "input": {**FRESH, **inputs}, **(keys or {})}
        return await self.http.post("predictions", json=body, headers=headers)

    async def made(self, **inputs: Any) -> dict[str, Any]:
        """Create a prediction, wait for its end and return it."""
        created = (await self.create(**inputs)).raise_for_status().json()
        await self.fake.settled()
        return await self.get(created["id"])

    async def get(self, prediction_id: str) -> dict[str, Any]:
        """Return the current state of a prediction."""
        response = (await self.http.get(f"predictions/{prediction_id}")).raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    async def clip(self, **inputs: Any) -> bytes:
        """Create a prediction; return its file."""
        prediction = await self.made(**inputs)
        assert prediction["status"] == "succeeded", prediction["error"]
        return (await self.http.get(prediction["output"])).raise_for_status().content


@asynccontextmanager
async def emulator_fixture(
    *, clock: Clock | None = None, compose: Compose | None = None, **settings: Any
) -> AsyncIterator[EmulatorFixture]:
    """Start an emulator with `settings`; all other delays are zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StandInWarning)
        given = EmulatorSettings(**{"work_s": 0.0, **settings})
        fake = ReplicateEmulator(given, clock=clock, compose=compose or cached_clip)
    async with fake:
        headers = {"Authorization": f"Bearer {fake.token}"}
        async with httpx.AsyncClient(
            base_url=fake.base_url, headers=headers, timeout=20, verify=_tls()
        ) as http:
            yield EmulatorFixture(fake, http)


@cache
def _tls() -> ssl.SSLContext:
    """Return a shared TLS context: loading the certificates takes longer than most tests."""
    return ssl.create_default_context()


def cached_clip(request: CompositionRequest, _: bytes | None) -> bytes:
    """Return a clip of the requested length, composed once per length."""
    return _clip_of_length(request.duration_s)


@cache
def _clip_of_length(duration_s: int) -> bytes:
    request = CompositionRequest(prompt="calm", duration_s=duration_s, window=None, seed=1)
    return compose(request, None)


@dataclass
class Webhook:
    """Receives webhooks on a local port."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  #: the next status codes; then 200

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((headers, body))
        code = self.answers.pop(0) if self.answers else 200
        writer.write(
            f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()


@asynccontextmanager
async def a_webhook() -> AsyncIterator[Webhook]:
    """Serve a receiver of webhooks."""
    receiver = Webhook()
    server = await asyncio.start_server(receiver._take, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    async with server:
        yield receiver
