"""Control: the fake's own pages, under `/_fake`, for whoever tests with it.

===================================  ========================================================
`GET /_fake/ledger`                  `created`, `charged`, `total_usd`, `entries[]`
`GET /_fake/state`                   `base_url`, `running`, `webhooks_waiting`, `credit_usd`,
                                     `is_revoked`, `requests` (`"create 201": n`), `struck`
`GET /_fake/faults`                  what still waits
`POST /_fake/faults`                 one fault or a list: `kind`, `times`, `value`, `place`
`DELETE /_fake/faults`               forget what still waits
`GET`, `PATCH /_fake/settings`       `EmulatorSettings`; PATCH takes those that change
`POST /_fake/account`                `{"is_revoked": bool, "credit_usd": number or null}`
===================================  ========================================================

They need no token, so that they work while it is revoked; the socket is on loopback alone.

I/O: HTTP.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicate_server.faults import Fault, FaultKind
from replicate_server.http import responses
from replicate_server.predictions.lifecycle import PredictionRunner
from replicate_server.settings import EmulatorSettings
from replicate_server.state import State

Handler = Callable[[Request], Awaitable[Response]]
_FAULTS: TypeAdapter[Fault | list[Fault]] = TypeAdapter(Fault | list[Fault])


class _Account(BaseModel):
    """What `POST /_fake/account` takes."""

    model_config = ConfigDict(extra="forbid")

    is_revoked: bool | None = None
    credit_usd: float | None = None


class Control:
    """The fake's own routes."""

    def __init__(self, state: State, runner: PredictionRunner) -> None:
        self._state = state
        self._runner = runner
        self.routes = [
            Route("/_fake/ledger", self._ledger, methods=["GET"]),
            Route("/_fake/state", self._now, methods=["GET"]),
            Route("/_fake/faults", self._pending, methods=["GET"]),
            Route("/_fake/faults", _checked(self._add), methods=["POST"]),
            Route("/_fake/faults", self._forget, methods=["DELETE"]),
            Route("/_fake/settings", self._settings, methods=["GET"]),
            Route("/_fake/settings", _checked(self._tune), methods=["PATCH"]),
            Route("/_fake/account", _checked(self._account), methods=["POST"]),
        ]

    async def _ledger(self, _: Request) -> Response:
        return responses.json_response(self._state.ledger.view())

    async def _now(self, _: Request) -> Response:
        state = self._state
        return responses.json_response(
            {
                "base_url": state.api_url,
                "running": self._runner.running,
                "webhooks_waiting": state.webhooks.waiting,
                "credit_usd": state.credit_usd,
                "is_revoked": state.is_revoked,
                "requests": {f"{at} {code}": n for (at, code), n in state.requests.items()},
                "struck": dict(state.faults.struck),
            }
        )

    async def _pending(self, _: Request) -> Response:
        return responses.json_response({"pending": self._state.faults.pending()})

    async def _add(self, request: Request) -> Response:
        given = _FAULTS.validate_json(await request.body())
        for fault in given if isinstance(given, list) else [given]:
            add_fault(self._state, fault)
        return await self._pending(request)

    async def _forget(self, request: Request) -> Response:
        self._state.faults.clear()
        return await self._pending(request)

    async def _settings(self, _: Request) -> Response:
        return responses.json_response(self._state.settings.model_dump(mode="json"))

    async def _tune(self, request: Request) -> Response:
        self._state.tune(tuned(self._state.settings, json.loads(await request.body())))
        return await self._settings(request)

    async def _account(self, request: Request) -> Response:
        given = _Account.model_validate_json(await request.body())
        if given.is_revoked is not None:
            self._state.is_revoked = given.is_revoked
        if "credit_usd" in given.model_fields_set:
            self._state.credit_usd = given.credit_usd
        return await self._now(request)


def add_fault(state: State, fault: Fault) -> None:
    """Put a fault where it waits; a stretch of time begins now."""
    now_s = state.time.monotonic()
    match fault.kind:
        case FaultKind.DOWN:
            state.down_until_s = now_s + fault.seconds
        case FaultKind.UNAVAILABLE:
            state.unavailable_until_s = now_s + fault.seconds
        case _:
            state.faults.put(fault)


def tuned(settings: EmulatorSettings, changes: dict[str, Any]) -> EmulatorSettings:
    """`settings` with `changes`.

    Raises:
        pydantic.ValidationError: one of them is none, or has no such value.
    """
    return EmulatorSettings.model_validate({**settings.model_dump(), **changes})


def _checked(handler: Handler) -> Handler:
    """`handler`, which answers 422 to what it cannot take."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except (ValidationError, ValueError, TypeError) as error:
            return responses.problem({"title": "Not taken", "detail": str(error)}, status=422)

    return answer
