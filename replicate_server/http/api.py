"""Replicate's HTTP API, as far as a client of one model needs it.

`middleware.py` wraps every endpoint with availability, faults, authentication and rate limits.

I/O: HTTP.
"""

import base64
import itertools
import json
import re
import secrets
from datetime import timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from replicate_server.faults import OF_WORK
from replicate_server.http import request_schema, responses
from replicate_server.http.middleware import EmulatorMiddleware
from replicate_server.http.request_schema import EVENTS, Inputs, InvalidField
from replicate_server.ledger import Entry
from replicate_server.model import rules
from replicate_server.predictions.files import PATH, origin_of
from replicate_server.predictions.lifecycle import PredictionRunner, data_url
from replicate_server.predictions.prediction import ListQuery, Prediction, Status, page
from replicate_server.state import State

_CANCEL_AFTER = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")
_CANCEL_AFTER_S_MIN = 5
_PREFER = re.compile(r"wait(?:=([1-9]|[1-5]\d|60))?")
_SYNC_S_MAX = 60


class BodyTooLargeError(Exception):
    """The request body is larger than `body_bytes_max`."""


class Api:
    """Routes of the API."""

    def __init__(
        self, state: State, runner: PredictionRunner, middleware: EmulatorMiddleware
    ) -> None:
        self._state = state
        self._runner = runner
        self._serials = itertools.count(1)
        wrap = middleware.wrap
        self.routes = [
            Route("/v1/predictions", wrap("create", self._create), methods=["POST"]),
            Route("/v1/predictions", wrap("list", self._list), methods=["GET"]),
            Route("/v1/predictions/{id}", wrap("get", self._get), methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", wrap("cancel", self._cancel), methods=["POST"]),
            Route("/v1/webhooks/default/secret", wrap("secret", self._secret), methods=["GET"]),
            Route("/v1/account", wrap("account", self._account), methods=["GET"]),
            Route(PATH + "/{token}/{name}", wrap("delivery", self._delivery), methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        state = self._state
        try:
            body = json.loads(await _read_body(request, state.settings.body_bytes_max))
        except BodyTooLargeError:
            return responses.too_large(state.settings.body_bytes_max)
        except ValueError:
            return responses.bad_request("The body is not JSON")
        cancel_after_s = _parse_duration(request.headers.get("cancel-after"))
        if error := self._validate(body, cancel_after_s):
            return error
        prediction = self._create_prediction(body, request, cancel_after_s)
        return await self._create_response(prediction, request)

    def _validate(self, body: Any, cancel_after_s: int | None) -> Response | None:
        """Return the error response to an invalid body; None for a valid one."""
        state = self._state
        invalid = request_schema.invalid_fields(body)
        if not invalid and not request_schema.is_permitted(body["version"]):
            return responses.unknown_version()
        webhook = "" if invalid else body.get("webhook", "")
        if webhook.startswith("http:") and not state.settings.webhooks_over_http:
            invalid = [_format_error("webhook", "must be an HTTPS URL")]
        if cancel_after_s is not None and cancel_after_s < _CANCEL_AFTER_S_MIN:
            invalid.append(_format_error("Cancel-After", "must be a duration of at least 5s"))
        if invalid:
            return responses.invalid(invalid)
        if state.credit_usd is not None and state.credit_usd <= 0:
            return responses.insufficient_credit()
        is_full = self._runner.running >= state.settings.predictions_max
        return responses.unavailable() if is_full else None

    def _create_prediction(
        self, body: dict[str, Any], request: Request, cancel_after_s: int | None
    ) -> Prediction:
        """Start the prediction of a valid body and record it in the ledger."""
        state = self._state
        inputs = Inputs.of(body["input"])
        is_random = rules.wants_random_seed(inputs)
        now, now_s = state.time.now(), state.time.monotonic()
        prediction = Prediction(
            id=base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower(),
            serial=next(self._serials),
            input=body["input"],
            inputs=inputs,
            api_url=state.api_url,
            webhook=body.get("webhook") or None,
            events=frozenset(body.get("webhook_events_filter") or EVENTS),
            created_at=now,
            created_s=now_s,
            faults=state.faults.take_each(OF_WORK),
            hardware_s=state.settings.hardware_s_per_s * max(inputs.duration, 0),
            seed=secrets.randbelow(rules.SEED_MAX) + 1 if is_random else inputs.seed or 0,
        )
        if cancel_after_s is not None:
            prediction.deadline_s = now_s + cancel_after_s
            prediction.deadline_at = now + timedelta(seconds=cancel_after_s)
        state.predictions[prediction.id] = prediction
        state.ledger.open(self._entry(prediction, request))
        self._runner.start(prediction)
        return prediction

    def _entry(self, prediction: Prediction, request: Request) -> Entry:
        inputs = prediction.inputs
        audio = inputs.input_audio
        return Entry(
            id=prediction.id,
            client=request.headers.get("user-agent", "")[:200],
            created_s=prediction.created_s,
            prompt=inputs.prompt,
            seed=prediction.seed,
            duration_s=inputs.duration,
            window_s=(inputs.continuation_start, inputs.continuation_end)
            if inputs.continuation
            else None,
            input_from=origin_of(audio, self._state.input_policy) if audio else None,
        )

    async def _create_response(self, prediction: Prediction, request: Request) -> Response:
        preference = _PREFER.fullmatch(request.headers.get("prefer", ""))
        if preference is None:
            return responses.json_response(prediction.view(), status=201)
        wait_s = int(preference.group(1) or _SYNC_S_MAX)
        await self._runner.wait_until_ended(prediction, within_s=wait_s)
        response = responses.json_response(
            self._sync_view(prediction), status=201 if prediction.has_ended else 202
        )
        response.headers["preference-applied"] = f"wait={wait_s}"
        return response

    def _sync_view(self, prediction: Prediction) -> dict[str, Any]:
        """Return the view for `Prefer: wait`, as recorded."""
        view = prediction.view()
        token = prediction.output_token
        if prediction.status is not Status.SUCCEEDED or token is None:
            return view
        output = self._state.outputs.get(token, self._state.time.monotonic())
        if self._state.settings.sync_traps and output is not None:
            view |= {"status": str(Status.PROCESSING), "output": data_url(output)}
        return view

    async def _list(self, request: Request) -> Response:
        parameters = dict(request.query_params)
        try:
            query = ListQuery.of(parameters)
        except ValueError as error:
            return responses.bad_request(str(error))
        state = self._state
        await self._runner.settle(*state.predictions.values())
        predictions = list(state.predictions.values())
        size = state.settings.page_size
        view = page(predictions, query, size=size, api_url=state.api_url, parameters=parameters)
        return responses.json_response(view)

    async def _get(self, request: Request) -> Response:
        prediction = self._state.predictions.get(request.path_params["id"])
        if prediction is None:
            return responses.not_found()
        await self._runner.settle(prediction)
        return responses.json_response(prediction.view())

    async def _cancel(self, request: Request) -> Response:
        prediction = self._state.predictions.get(request.path_params["id"])
        if prediction is None:
            return responses.not_found()
        await self._runner.settle(prediction)
        self._runner.cancel(prediction)
        return responses.json_response(prediction.view())

    async def _secret(self, _: Request) -> Response:
        return responses.json_response({"key": self._state.settings.webhook_secret})

    async def _account(self, _: Request) -> Response:
        return responses.json_response(
            {"type": "user", "username": "fake", "name": "Fake Replicate", "github_url": None}
        )

    async def _delivery(self, request: Request) -> Response:
        token = request.path_params["token"]
        output = self._state.outputs.get(token, self._state.time.monotonic())
        if output is None:
            return Response("Not Found\n", 404, media_type="text/plain")
        return Response(output.data, media_type=output.content_type)


def _parse_duration(text: str | None) -> int | None:
    """Return the seconds of a `Cancel-After` header (`30`, `5m`, `1h30m45s`); 0 if invalid."""
    if text is None:
        return None
    match = _CANCEL_AFTER.fullmatch(text.strip())
    if match is None:
        return 0
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _format_error(place: str, description: str) -> InvalidField:
    return InvalidField(type="format", field=place, description=description)


async def _read_body(request: Request, bytes_max: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > bytes_max:
            raise BodyTooLargeError
    return bytes(data)
