"""Fake: one Replicate on a port of this machine, for tests and laptops.

I/O: a listening socket on 127.0.0.1; the parts below say what they do.
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
from replicate_server.http.control import Control, add_fault, tuned
from replicate_server.http.middleware import EmulatorMiddleware, HeaderMiddleware
from replicate_server.http.server import LoopbackServer
from replicate_server.ledger import Ledger
from replicate_server.model.composer import Compose
from replicate_server.predictions.files import OutputStore
from replicate_server.predictions.lifecycle import PredictionRunner
from replicate_server.predictions.webhooks import Webhooks
from replicate_server.settings import EmulatorSettings
from replicate_server.state import State, creation_bucket, request_bucket
from services.generator.providers.synth.provider import compose as composed_by_synth
from shared.clock import Clock
from shared.storage import StandInWarning


class ReplicateEmulator:
    """Replicate's HTTP API, served while it is entered: `async with ReplicateEmulator() as fake`.

    With a `clock` it follows that clock (`time.py`); `compose` makes the clips, by default the
    built-in synthesizer, and may be replaced where a test needs hundreds of them.
    """

    def __init__(
        self,
        settings: EmulatorSettings | None = None,
        *,
        clock: Clock | None = None,
        compose: Compose = composed_by_synth,
    ) -> None:
        warnings.warn(
            StandInWarning("predictions come from a fake Replicate on this machine"),
            stacklevel=2,
        )
        self._settings = settings or EmulatorSettings()
        self._time = EmulatedTime(clock)
        self._compose = compose
        self._parts = AsyncExitStack()
        self._state_now: State | None = None
        self._runner: PredictionRunner | None = None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ServerStartError: the port is taken.
        """
        serving = LoopbackServer()
        origin = serving.bind(self._settings.port)
        self._parts.push_async_callback(serving.stop)
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
        middleware = EmulatorMiddleware(state, serving.connections)
        routes = [*Api(state, runner, middleware).routes, *Control(state, runner).routes]
        await serving.start(HeaderMiddleware(Starlette(routes=routes)))
        self._state_now, self._runner = state, runner
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection; the ledger can still be read."""
        await self._parts.aclose()

    @property
    def _state(self) -> State:
        assert self._state_now is not None, "it is not entered"
        return self._state_now

    @property
    def _entered_runner(self) -> PredictionRunner:
        assert self._runner is not None, "it is not entered"
        return self._runner

    @property
    def base_url(self) -> str:
        """For `REPLICATE_BASE_URL`: `http://127.0.0.1:PORT/v1`."""
        return self._state.api_url

    @property
    def ledger_url(self) -> str:
        """Where the ledger can be read, by anybody on this machine."""
        return f"{self._state.origin}/_fake/ledger"

    @property
    def token(self) -> str:
        """For `REPLICATE_API_KEY`."""
        return self._state.settings.token

    @property
    def webhook_secret(self) -> str:
        """What webhooks are signed with."""
        return self._state.settings.webhook_secret

    @property
    def settings(self) -> EmulatorSettings:
        """As they are now."""
        return self._state.settings

    @property
    def ledger(self) -> Ledger:
        """What was made and charged."""
        return self._state.ledger

    @property
    def requests(self) -> Counter[tuple[str, int]]:
        """Answers by place and status code (0: none was given)."""
        return self._state.requests

    @property
    def struck(self) -> Counter[str]:
        """How often each kind of fault has struck."""
        return self._state.faults.struck

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """Every prediction that is kept, as the API tells it, oldest first."""
        return [one.view() for one in self._state.predictions.values()]

    @property
    def running(self) -> int:
        """Predictions that are not over."""
        return self._entered_runner.running

    @property
    def webhooks_sent(self) -> int:
        """Requests that were sent to webhooks, answered or not."""
        return self._state.webhooks.attempts

    @property
    def credit_usd(self) -> float | None:
        """Dollars left; None: no end of them."""
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
        """Let something go wrong (`faults.py` has the table).

        Raises:
            ValueError: there is no such fault, or its value is none of it.
        """
        fault = Fault(kind=FaultKind(kind), times=times, value=value, place=place)
        add_fault(self._state, fault)

    def clear_faults(self) -> None:
        """Forget the faults that still wait, and be up."""
        self._state.faults.clear()
        self._state.down_until_s = self._state.unavailable_until_s = self._time.monotonic()

    def tune(self, **changes: Any) -> None:
        """Go on with other settings (any field of `EmulatorSettings` but the port)."""
        self._state.tune(tuned(self._state.settings, changes))

    def revoke(self) -> None:
        """The token is no longer good: 401."""
        self._state.is_revoked = True

    def restore(self) -> None:
        """The token is good again."""
        self._state.is_revoked = False

    async def settled(self, *, within_s: float = 30.0) -> None:
        """Return when nothing runs and no webhook waits.

        Raises:
            TimeoutError: something still does.
        """
        async with asyncio.timeout(within_s):
            while under_way := (*self._entered_runner.tasks, *self._state.webhooks.tasks):
                await asyncio.wait(under_way)
