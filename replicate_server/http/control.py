"""The emulator's control API under `/_fake`, for tests.

===================================  ========================================================
`GET /_fake/ledger`                  `created`, `charged`, `total_usd`, `entries[]`
`GET /_fake/state`                   `base_url`, `running`, `webhooks_waiting`, `credit_usd`,
                                     `is_revoked`, `requests` (`"create 201": n`), `struck`
`GET /_fake/faults`                  pending faults
`POST /_fake/faults`                 one fault or a list: `kind`, `times`, `value`, `place`
`DELETE /_fake/faults`               remove the pending faults
`GET`, `PATCH /_fake/settings`       `EmulatorSettings`; PATCH takes the fields to change
`POST /_fake/account`                `{"is_revoked": bool, "credit_usd": number or null}`
===================================  ========================================================

No endpoint needs a token, so they work while it is revoked; the socket is on loopback only.

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
    """Body of `POST /_fake/account`."""

    model_config = ConfigDict(extra="forbid")

    is_revoked: bool | None = None
    credit_usd: float | None = None


class Control:
    """Routes of the control API."""

    def __init__(self, state: State, runner: PredictionRunner) -> None:
        self._state = state
        self._runner = runner
        self.routes = [
            Route("/_fake/ledger", self._show_ledger, methods=["GET"]),
            Route("/_fake/state", self._show_state, methods=["GET"]),
            Route("/_fake/faults", self._list_faults, methods=["GET"]),
            Route("/_fake/faults", _validated(self._add_faults), methods=["POST"]),
            Route("/_fake/faults", self._clear_faults, methods=["DELETE"]),
            Route("/_fake/settings", self._show_settings, methods=["GET"]),
            Route("/_fake/settings", _validated(self._change_settings), methods=["PATCH"]),
            Route("/_fake/account", _validated(self._change_account), methods=["POST"]),
        ]

    async def _show_ledger(self, _: Request) -> Response:
        return responses.json_response(self._state.ledger.view())

    async def _show_state(self, _: Request) -> Response:
        state = self._state
        return responses.json_response(
            {
                "base_url": state.api_url,
                "running": self._runner.running,
                "webhooks_waiting": state.webhooks.waiting,
                "credit_usd": state.credit_usd,
                "is_revoked": state.is_revoked,
                "requests": {f"{place} {code}": n for (place, code), n in state.requests.items()},
                "struck": dict(state.faults.struck),
            }
        )

    async def _list_faults(self, _: Request) -> Response:
        return responses.json_response({"pending": self._state.faults.pending()})

    async def _add_faults(self, request: Request) -> Response:
        faults = _FAULTS.validate_json(await request.body())
        for fault in faults if isinstance(faults, list) else [faults]:
            add_fault(self._state, fault)
        return await self._list_faults(request)

    async def _clear_faults(self, request: Request) -> Response:
        self._state.faults.clear()
        return await self._list_faults(request)

    async def _show_settings(self, _: Request) -> Response:
        return responses.json_response(self._state.settings.model_dump(mode="json"))

    async def _change_settings(self, request: Request) -> Response:
        self._state.tune(changed_settings(self._state.settings, json.loads(await request.body())))
        return await self._show_settings(request)

    async def _change_account(self, request: Request) -> Response:
        account = _Account.model_validate_json(await request.body())
        if account.is_revoked is not None:
            self._state.is_revoked = account.is_revoked
        if "credit_usd" in account.model_fields_set:
            self._state.credit_usd = account.credit_usd
        return await self._show_state(request)


def add_fault(state: State, fault: Fault) -> None:
    """Add a fault; a period of unavailability begins now."""
    now_s = state.time.monotonic()
    match fault.kind:
        case FaultKind.DOWN:
            state.down_until_s = now_s + fault.seconds
        case FaultKind.UNAVAILABLE:
            state.unavailable_until_s = now_s + fault.seconds
        case _:
            state.faults.put(fault)


def changed_settings(settings: EmulatorSettings, changes: dict[str, Any]) -> EmulatorSettings:
    """Return `settings` with `changes`.

    Raises:
        pydantic.ValidationError: unknown setting, or invalid value.
    """
    return EmulatorSettings.model_validate({**settings.model_dump(), **changes})


def _validated(handler: Handler) -> Handler:
    """Return `handler` with a 422 response to invalid input."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except (ValidationError, ValueError, TypeError) as error:
            return responses.problem({"title": "Invalid request", "detail": str(error)}, status=422)

    return endpoint
