"""Serves scripted Replicate responses in memory to a `ReplicateProvider`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from services.generator.providers import CompositionRequest, mp3
from services.generator.providers.replicate.factory import build_replicate
from services.generator.providers.replicate.provider import ReplicateProvider
from services.generator.providers.replicate.settings import MUSICGEN, ReplicateSettings
from shared.media.samples import CLIP_RATE_HZ
from shared.media.sandbox import MediaSandbox
from shared.security.signed_links import LinkSettings
from shared.settings import MediaSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.support.audio_builders import music

KEY = "r8_of_the_test"
OUTPUT = "https://x.replicate.delivery/abc/out.mp3"
FRESH = CompositionRequest(prompt="calm", duration_s=2, window=None, seed=7)
ScriptedResponse = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def a_clip(seconds: int = 2) -> bytes:
    """Return music as the model would send it."""
    return mp3.encode(music(np.arange(seconds * CLIP_RATE_HZ), rate_hz=CLIP_RATE_HZ))


def a_prediction(**fields: Any) -> dict[str, Any]:
    """Return prediction "p1" of `FRESH`, created when the tests' clocks start."""
    return {
        "id": "p1",
        "version": MUSICGEN.split(":")[1],
        "status": "starting",
        "input": {"prompt": "calm", "duration": 2, "seed": 7},
        "output": None,
        "error": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        **fields,
    }


def succeeded(**fields: Any) -> httpx.Response:
    """Return the response to a poll of "p1" after it succeeded."""
    return httpx.Response(
        200, json=a_prediction(**{"status": "succeeded", "output": OUTPUT} | fields)
    )


@dataclass
class ScriptedReplicate:
    """The provider, its clock and store, and the scripted responses with the requests received.

    `script` maps an endpoint (`create`, `get`, `list`, `cancel`, `account`, `file`, `head`) to its
    next responses; the last one is repeated.
    """

    folder: Path
    public_base_url: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    script: dict[str, list[ScriptedResponse]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder)
        self.provider: ReplicateProvider = build_replicate(
            ReplicateSettings(**{"key": KEY, "starts_per_s": 10.0, **self.settings}),
            links=LinkSettings(keys="k" * 16, public_base_url=self.public_base_url),
            store=self.store,
            sandbox=MediaSandbox(MediaSettings()),
            clock=self.clock,
            log=logger_of("test"),
            transport=httpx.MockTransport(self._respond_to),
        )

    def respond(self, endpoint: str, *responses: ScriptedResponse) -> None:
        """Set the responses of `endpoint`, in order; the last one is repeated."""
        self.script[endpoint] = list(responses)

    def requests_to(self, endpoint: str) -> list[httpx.Request]:
        """Return the requests received by `endpoint`."""
        return [request for request in self.requests if _endpoint(request) == endpoint]

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the last creation."""
        body: dict[str, Any] = json.loads(self.requests_to("create")[-1].content)
        return body

    def _respond_to(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        responses = self.script[_endpoint(request)]
        response = responses.pop(0) if len(responses) > 1 else responses[0]
        if isinstance(response, Exception):
            raise response
        return response if isinstance(response, httpx.Response) else response(request)


def _endpoint(request: httpx.Request) -> str:
    if request.method == "HEAD":
        return "head"
    path = request.url.path
    if not path.startswith("/v1/"):
        return "file"
    if path.endswith("/cancel"):
        return "cancel"
    if path == "/v1/account":
        return "account"
    if path == "/v1/predictions":
        return "create" if request.method == "POST" else "list"
    return "get"
