"""Runs a prediction from `starting` to its end, in the emulator's time.

Durations are those of the settings and faults; with the machine's clock they may be longer,
because composing takes real time.

Units: seconds on the emulator's monotonic clock. I/O: fetches inputs; composes in threads.
"""

import asyncio
import base64
import contextlib
import math

from replicate_server.faults import OF_WEBHOOKS, Fault, FaultKind
from replicate_server.model import composer, rules
from replicate_server.model.clip_shapes import CONTENT_TYPES
from replicate_server.model.composer import ClipRequest, Compose
from replicate_server.model.rules import ModelError
from replicate_server.predictions.files import PATH, Output, fetch
from replicate_server.predictions.prediction import Prediction, Status
from replicate_server.predictions.webhooks import WebhookMessage
from replicate_server.state import State, remove_data

_INTERRUPTED = "Prediction interrupted; please retry (code: PA)"


class _DeadlineError(Exception):
    """The Cancel-After deadline passed before the end."""


class PredictionRunner:
    """Runs predictions, each as a task."""

    def __init__(self, state: State, compose: Compose) -> None:
        self._state = state
        self._compose = compose
        self._composers = asyncio.Semaphore(state.settings.composers)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._warm_until_s = -math.inf

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The running tasks."""
        return list(self._running.values())

    @property
    def running(self) -> int:
        """The number of predictions that have not ended."""
        return len(self._running)

    def start(self, prediction: Prediction) -> None:
        """Start a prediction; return at once."""
        settings = self._state.settings
        is_cold = not self._running and prediction.created_s >= self._warm_until_s
        starts_s = prediction.created_s + settings.queue_s
        if is_cold:
            starts_s += settings.cold_start_s
        if slow := prediction.faults.get(FaultKind.COLD_START):
            starts_s += slow.seconds
            is_cold = True
        prediction.due_s = min(starts_s, prediction.deadline_s)
        task = asyncio.create_task(self._run(prediction, starts_s, is_cold=is_cold))
        self._running[prediction.id] = task
        task.add_done_callback(lambda _: self._running.pop(prediction.id, None))

    def cancel(self, prediction: Prediction) -> None:
        """Cancel a prediction; do nothing if it has ended."""
        if prediction.has_ended:
            return
        self._end(prediction, Status.CANCELED, at_s=self._state.time.monotonic())
        if task := self._running.get(prediction.id):
            task.cancel()

    async def settle(self, *predictions: Prediction) -> None:
        """Wait until each prediction has the status that is due by the clock."""
        time = self._state.time

        def is_due() -> bool:
            return any(prediction.is_due(time.monotonic()) for prediction in predictions)

        await time.settle(is_due)

    async def wait_until_ended(self, prediction: Prediction, *, within_s: float) -> None:
        """Wait until the prediction ends, at most `within_s` of real time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(prediction.ended.wait(), within_s)

    async def close(self) -> None:
        """Stop all predictions without webhooks."""
        running = self.tasks
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, prediction: Prediction, starts_s: float, *, is_cold: bool) -> None:
        status: Status | None = None
        if fault := prediction.faults.get(FaultKind.STATUS):
            status = Status(fault.text)
        try:
            await self._wait_until(prediction, starts_s)
            if status is Status.ABORTED:
                self._end(prediction, status, at_s=starts_s)
                return
            ends_s = self._start_processing(prediction, starts_s, is_cold=is_cold)
            try:
                data = await self._make_clip(prediction, status)
            except ModelError as error:
                await self._wait_until(prediction, ends_s)
                prediction.error = str(error)
                self._end(prediction, Status.FAILED, at_s=ends_s)
                return
            await self._wait_until(prediction, ends_s)
            if status is not None:
                prediction.error = _INTERRUPTED if status is Status.FAILED else None
            elif data is not None:
                self._store_output(prediction, data, at_s=self._stamp(ends_s))
            self._end(prediction, status or Status.SUCCEEDED, at_s=ends_s)
        except _DeadlineError:
            has_started = prediction.started_s is not None
            status = Status.CANCELED if has_started else Status.ABORTED
            self._end(prediction, status, at_s=prediction.deadline_s)
        except Exception as error:  # noqa: BLE001 - a bug must not look like a long wait
            prediction.error = f"Unknown error (code: E1000): {error!r}"
            self._end(prediction, Status.FAILED, at_s=self._state.time.monotonic())

    def _start_processing(self, prediction: Prediction, starts_s: float, *, is_cold: bool) -> float:
        """Set `processing`; return the time of the end."""
        state, inputs = self._state, prediction.inputs
        prediction.started_s = self._stamp(starts_s)
        prediction.started_at = state.time.datetime_at(prediction.started_s)
        prediction.status = Status.PROCESSING
        work_s = state.settings.work_s + state.settings.work_s_per_s * max(inputs.duration, 0)
        if slow := prediction.faults.get(FaultKind.SLOW_WORK):
            work_s += slow.seconds
        ends_s = prediction.started_s + work_s
        if FaultKind.STUCK in prediction.faults:
            ends_s = math.inf
        prediction.due_s = min(ends_s, prediction.deadline_s)
        self._notify(prediction, "start")
        if is_cold:
            model = inputs.model_version
            prediction.logs = f"Loading model {model}...\nModel {model} loaded successfully.\n"
        prediction.logs += f"Using seed {prediction.seed}\n"
        self._notify(prediction, "logs")
        return ends_s

    async def _make_clip(self, prediction: Prediction, status: Status | None) -> bytes | None:
        """Return the clip's file; None if a fault leaves the prediction without one."""
        state, inputs = self._state, prediction.inputs
        if fail := prediction.faults.get(FaultKind.FAIL_WITH):
            raise ModelError(fail.text)
        rules.check(inputs, duration_s_max=state.settings.duration_s_max)
        if status is not None or FaultKind.STUCK in prediction.faults:
            return None
        source: bytes | None = None
        if inputs.input_audio:
            source = await fetch(
                inputs.input_audio,
                policy=state.input_policy,
                outputs=state.outputs,
                now_s=state.time.monotonic(),
            )
        shape = prediction.faults.get(FaultKind.CLIP_SHAPE)
        request = ClipRequest(
            inputs=inputs,
            seed=prediction.seed,
            source=source,
            shape=shape.text if shape else "window",
        )
        async with self._composers:
            return await asyncio.to_thread(composer.make_clip, request, self._compose)

    def _store_output(self, prediction: Prediction, data: bytes, *, at_s: float) -> None:
        """Store the file and set `output`."""
        state, file_format = self._state, prediction.inputs.output_format
        content_type = CONTENT_TYPES[file_format]
        expired = {FaultKind.DEAD_OUTPUT, FaultKind.PURGED} & prediction.faults.keys()
        lives_s = -math.inf if expired else state.settings.delivery_ttl_s
        output = Output(data=data, content_type=content_type, expires_s=at_s + lives_s)
        prediction.output_token = state.outputs.put(output)
        url = f"{state.origin}{PATH}/{prediction.output_token}/out.{file_format}"
        fault = prediction.faults.get(FaultKind.OUTPUT_SHAPE)
        match fault.text if fault else "string":
            case "list":
                prediction.output = [url]
            case "data_url":
                prediction.output = data_url(output)
            case "null":
                prediction.output = None
            case _:
                prediction.output = url
        self._notify(prediction, "output")

    def _end(self, prediction: Prediction, status: Status, *, at_s: float) -> None:
        state = self._state
        prediction.status, prediction.ended_s = status, self._stamp(at_s)
        prediction.completed_at = state.time.datetime_at(prediction.ended_s)
        self._warm_until_s = prediction.ended_s + state.settings.idle_s
        cost_usd = state.ledger.close(
            prediction.id,
            status=str(status),
            predict_s=prediction.predict_s,
            price_usd_per_s=state.settings.price_usd_per_s,
        )
        if state.credit_usd is not None:
            state.credit_usd -= cost_usd
        if FaultKind.PURGED in prediction.faults:
            remove_data(prediction)
        if status is not Status.ABORTED or state.settings.webhook_on_aborted:
            self._notify(prediction, "completed")
        prediction.ended.set()

    def _notify(self, prediction: Prediction, event: str) -> None:
        if prediction.webhook is None or event not in prediction.events:
            return
        faults: dict[FaultKind, Fault] = {}
        if event == "completed":
            faults = self._state.faults.take_each(OF_WEBHOOKS)
        message = WebhookMessage(
            url=prediction.webhook, event=event, body=prediction.view(), faults=faults
        )
        self._state.webhooks.send(message, self._state.webhook_policy)

    async def _wait_until(self, prediction: Prediction, at_s: float) -> None:
        """Wait until `at_s`.

        Raises:
            _DeadlineError: the prediction's deadline comes first.
        """
        await self._state.time.sleep_until(min(at_s, prediction.deadline_s))
        if prediction.deadline_s < at_s:
            raise _DeadlineError

    def _stamp(self, at_s: float) -> float:
        """Return the recorded time of something that was due at `at_s`."""
        time = self._state.time
        return at_s if time.follows else max(at_s, time.monotonic())


def data_url(output: Output) -> str:
    """Return an output as a data URL."""
    return f"data:{output.content_type};base64,{base64.b64encode(output.data).decode()}"
