"""Runs the Replicate emulator for tests and laptops.

I/O: a listening socket on 127.0.0.1.
"""

import asyncio
import warnings
from collections import Counter
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from starlette.applications import Starlette

from replicate_server.emulated_time import EmulatedTime
from replicate_server.faults import Fault, FaultKind, Place
from replicate_server.http.api import Api
from replicate_server.http.control import Control, add_fault, changed_settings
from replicate_server.http.middleware import EmulatorMiddleware, HeaderMiddleware
from replicate_server.http.server import LoopbackServer
from replicate_server.ledger import Ledger
from replicate_server.model.composer import Compose
from replicate_server.predictions.files import OutputStore
from replicate_server.predictions.lifecycle import PredictionRunner
from replicate_server.predictions.webhooks import Webhooks
from replicate_server.settings import EmulatorSettings
from replicate_server.state import State, creation_bucket, request_bucket
from services.generator.providers.synth.provider import compose as compose_with_synth
from shared.clock import Clock
from shared.storage import StandInWarning


class ReplicateEmulator:
    """Serves Replicate's HTTP API: `async with ReplicateEmulator() as emulator`.

    With a `clock` it follows that clock (`emulated_time.py`). `compose` makes the clips, by
    default with the built-in synthesizer; a test that needs hundreds of clips may replace it.
    """

    def __init__(
        self,
        settings: EmulatorSettings | None = None,
        *,
        clock: Clock | None = None,
        compose: Compose = compose_with_synth,
    ) -> None:
        warnings.warn(
            StandInWarning("predictions come from a fake Replicate on this machine"),
            stacklevel=2,
        )
        self._settings = settings or EmulatorSettings()
        self._time = EmulatedTime(clock)
        self._compose = compose
        self._parts = AsyncExitStack()
        self._entered_state: State | None = None
        self._runner: PredictionRunner | None = None

    async def __aenter__(self) -> Self:
        """Start to serve.

        Raises:
            ServerStartError: the port is in use.
        """
        server = LoopbackServer()
        origin = server.bind(self._settings.port)
        self._parts.push_async_callback(server.stop)
        state = State(
            settings=self._settings,
            time=self._time,
            origin=origin,
            webhooks=Webhooks(self._time),
            outputs=OutputStore(bytes_max=self._settings.delivery_bytes_max),
            creations=creation_bucket(self._settings),
            others=request_bucket(self._settings),
            credit_usd=self._settings.credit_usd,
        )
        self._parts.push_async_callback(state.webhooks.close)
        runner = PredictionRunner(state, self._compose)
        self._parts.push_async_callback(runner.close)
        middleware = EmulatorMiddleware(state, server.connections)
        routes = [*Api(state, runner, middleware).routes, *Control(state, runner).routes]
        await server.start(HeaderMiddleware(Starlette(routes=routes)))
        self._entered_state, self._runner = state, runner
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection; the ledger stays readable."""
        await self._parts.aclose()

    @property
    def _state(self) -> State:
        assert self._entered_state is not None, "not entered"
        return self._entered_state

    @property
    def _entered_runner(self) -> PredictionRunner:
        assert self._runner is not None, "not entered"
        return self._runner

    @property
    def base_url(self) -> str:
        """The value for `REPLICATE_BASE_URL`: `http://127.0.0.1:PORT/v1`."""
        return self._state.api_url

    @property
    def ledger_url(self) -> str:
        """The URL of the ledger, readable without a token."""
        return f"{self._state.origin}/_fake/ledger"

    @property
    def token(self) -> str:
        """The value for `REPLICATE_API_KEY`."""
        return self._state.settings.token

    @property
    def webhook_secret(self) -> str:
        """The secret that signs webhooks."""
        return self._state.settings.webhook_secret

    @property
    def settings(self) -> EmulatorSettings:
        """The current settings."""
        return self._state.settings

    @property
    def ledger(self) -> Ledger:
        """Every prediction and its cost."""
        return self._state.ledger

    @property
    def requests(self) -> Counter[tuple[str, int]]:
        """Responses by place and status code (0: no response)."""
        return self._state.requests

    @property
    def struck(self) -> Counter[str]:
        """How often each kind of fault has happened."""
        return self._state.faults.struck

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """Every prediction still kept, as the API returns it, oldest first."""
        return [prediction.view() for prediction in self._state.predictions.values()]

    @property
    def running(self) -> int:
        """The number of predictions that have not ended."""
        return self._entered_runner.running

    @property
    def credit_usd(self) -> float | None:
        """Dollars left; None: unlimited."""
        return self._state.credit_usd

    @credit_usd.setter
    def credit_usd(self, dollars: float | None) -> None:
        self._state.credit_usd = dollars

    def fault(
        self,
        kind: FaultKind | str,
        *,
        times: int = 1,
        value: float | str | None = None,
        place: Place = "create",
    ) -> None:
        """Add a fault (see the table in `faults.py`).

        Raises:
            ValueError: unknown fault, or invalid value.
        """
        fault = Fault(kind=FaultKind(kind), times=times, value=value, place=place)
        add_fault(self._state, fault)

    def tune(self, **changes: Any) -> None:
        """Change settings (any field of `EmulatorSettings` except the port)."""
        self._state.tune(changed_settings(self._state.settings, changes))

    def revoke(self) -> None:
        """Reject the token with 401."""
        self._state.is_revoked = True

    def restore(self) -> None:
        """Accept the token again."""
        self._state.is_revoked = False

    async def settled(self, *, within_s: float = 30.0) -> None:
        """Wait until no prediction runs and no webhook is pending.

        Raises:
            TimeoutError: one still is after `within_s`.
        """
        async with asyncio.timeout(within_s):
            while pending := (*self._entered_runner.tasks, *self._state.webhooks.tasks):
                await asyncio.wait(pending)
