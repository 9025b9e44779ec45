"""A Replicate that answers from a script, in memory, and the provider in front of it."""

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
from services.generator.providers.synth.voices import RATE_HZ
from shared.security.signed_links import LinkSettings
from shared.storage.filesystem import FolderStore
from shared.telemetry.log import logger_of
from tests.fakes.clock import FakeClock
from tests.support.audio_builders import music

KEY = "r8_of_the_test"
OUTPUT = "https://x.replicate.delivery/abc/out.mp3"
FRESH = CompositionRequest(prompt="calm", duration_s=2, window=None, seed=7)
Told = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def a_clip(seconds: int = 2) -> bytes:
    """Music as the model would send it."""
    return mp3.encode(music(np.arange(seconds * RATE_HZ), rate_hz=RATE_HZ))


def a_prediction(**fields: Any) -> dict[str, Any]:
    """Prediction "p1" for `FRESH`, made when the clocks of these tests begin."""
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
    """The answer to a look at "p1", done."""
    return httpx.Response(
        200, json=a_prediction(**{"status": "succeeded", "output": OUTPUT} | fields)
    )


@dataclass
class ScriptedReplicate:
    """The provider, its clock and store, and what the other side was asked and answers.

    `script` maps a place (`create`, `get`, `list`, `cancel`, `account`, `file`, `head`) to its
    next answers; the last one stays.
    """

    folder: Path
    public_base_url: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    script: dict[str, list[Told]] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.store = FolderStore(self.folder)
        self.provider: ReplicateProvider = build_replicate(
            ReplicateSettings(**{"key": KEY, "starts_per_s": 10.0, **self.settings}),
            links=LinkSettings(keys="k" * 16, public_base_url=self.public_base_url),
            store=self.store,
            clock=self.clock,
            log=logger_of("test"),
            transport=httpx.MockTransport(self._answer),
        )

    def tells(self, place: str, *answers: Told) -> None:
        """Let `place` answer so, one after the other; the last one stays."""
        self.script[place] = list(answers)

    def at(self, place: str) -> list[httpx.Request]:
        """The requests that came to `place`."""
        return [one for one in self.asked if _place(one) == place]

    @property
    def body(self) -> dict[str, Any]:
        """What the last creation was told."""
        told: dict[str, Any] = json.loads(self.at("create")[-1].content)
        return told

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answers = self.script[_place(request)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)


def _place(request: httpx.Request) -> str:
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
