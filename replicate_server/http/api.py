"""Api: Replicate's HTTP API, as much of it as a client for one model needs.

Every request passes the middleware: is the service there, does the script have a fault for this
place, is the token good, is there room under the rate limit.

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
    """More was sent than is read."""


class Api:
    """The routes, over the state and the work."""

    def __init__(
        self, state: State, runner: PredictionRunner, middleware: EmulatorMiddleware
    ) -> None:
        self._state = state
        self._runner = runner
        self._serials = itertools.count(1)
        at = middleware.at
        self.routes = [
            Route("/v1/predictions", at("create", self._create), methods=["POST"]),
            Route("/v1/predictions", at("list", self._list), methods=["GET"]),
            Route("/v1/predictions/{id}", at("get", self._get), methods=["GET"]),
            Route("/v1/predictions/{id}/cancel", at("cancel", self._cancel), methods=["POST"]),
            Route("/v1/webhooks/default/secret", at("secret", self._secret), methods=["GET"]),
            Route("/v1/account", at("account", self._account), methods=["GET"]),
            Route(PATH + "/{token}/{name}", at("delivery", self._delivery), methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        state = self._state
        try:
            body = json.loads(await _body(request, state.settings.body_bytes_max))
        except BodyTooLargeError:
            return responses.too_large(state.settings.body_bytes_max)
        except ValueError:
            return responses.bad_request("The body is not JSON")
        cancel_after_s = _seconds_in(request.headers.get("cancel-after"))
        if refusal := self._refusal(body, cancel_after_s):
            return refusal
        prediction = self._begun(body, request, cancel_after_s)
        return await self._answer_to_create(prediction, request)

    def _refusal(self, body: Any, cancel_after_s: int | None) -> Response | None:
        """Why nothing is made of a body; None of a good one."""
        state = self._state
        found = request_schema.invalid_fields(body)
        if not found and not request_schema.is_permitted(body["version"]):
            return responses.unknown_version()
        webhook = "" if found else body.get("webhook", "")
        if webhook.startswith("http:") and not state.settings.webhooks_over_http:
            found = [_fault("webhook", "must be an HTTPS URL")]
        if cancel_after_s is not None and cancel_after_s < _CANCEL_AFTER_S_MIN:
            found.append(_fault("Cancel-After", "must be a duration of at least 5s"))
        if found:
            return responses.invalid(found)
        if state.credit_usd is not None and state.credit_usd <= 0:
            return responses.without_credit()
        is_full = self._runner.running >= state.settings.predictions_max
        return responses.unavailable() if is_full else None

    def _begun(
        self, body: dict[str, Any], request: Request, cancel_after_s: int | None
    ) -> Prediction:
        """The prediction that a valid body asks for, under way and in the ledger."""
        state = self._state
        inputs = Inputs.of(body["input"])
        drawn = rules.wants_random_seed(inputs)
        now, now_s = state.time.now(), state.time.monotonic()
        prediction = Prediction(
            id=base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower(),
            serial=next(self._serials),
            given=body["input"],
            inputs=inputs,
            api_url=state.api_url,
            webhook=body.get("webhook") or None,
            events=frozenset(body.get("webhook_events_filter") or EVENTS),
            created_at=now,
            created_s=now_s,
            faults=state.faults.take_each(OF_WORK),
            seed=secrets.randbelow(rules.SEED_MAX) + 1 if drawn else inputs.seed or 0,
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

    async def _answer_to_create(self, prediction: Prediction, request: Request) -> Response:
        preference = _PREFER.fullmatch(request.headers.get("prefer", ""))
        if preference is None:
            return responses.json_response(prediction.view(), status=201)
        wait_s = int(preference.group(1) or _SYNC_S_MAX)
        await self._runner.over(prediction, within_s=wait_s)
        answer = responses.json_response(
            self._sync_view(prediction), status=201 if prediction.is_over else 202
        )
        answer.headers["preference-applied"] = f"wait={wait_s}"
        return answer

    def _sync_view(self, prediction: Prediction) -> dict[str, Any]:
        """What a waiting caller is told, as it was recorded."""
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
        kept = list(state.predictions.values())
        size = state.settings.page_size
        shown = page(kept, query, size=size, api_url=state.api_url, parameters=parameters)
        return responses.json_response(shown)

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


def _seconds_in(text: str | None) -> int | None:
    """The seconds of a `Cancel-After` header: `30`, `90s`, `5m`, `1h30m45s`; 0 of nonsense."""
    if text is None:
        return None
    match = _CANCEL_AFTER.fullmatch(text.strip())
    if match is None:
        return 0
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _fault(place: str, description: str) -> InvalidField:
    return InvalidField(type="format", field=place, description=description)


async def _body(request: Request, bytes_max: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > bytes_max:
            raise BodyTooLargeError
    return bytes(data)
