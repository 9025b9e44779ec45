"""Tests of the Replicate emulator's faults: each has the effect of its table, as often as given."""

import asyncio
import base64
import hashlib
import hmac
import json
from typing import Any

import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.support.replicate_emulator import EmulatorFixture, Webhook, a_webhook, emulator_fixture

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("kind", "created"),
    [("lost_answer", 1), ("dropped", 0), ("hang", 1)],
)
async def test_create_can_get_no_response(kind: str, created: int) -> None:
    """Only the ledger shows whether the prediction was created."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault(kind, value=0.1 if kind == "hang" else None)

        with pytest.raises(httpx.RemoteProtocolError):
            await fixture.create()

        assert len(fixture.fake.ledger.entries) == created
        assert (await fixture.create()).status_code == 201
        assert fixture.fake.requests["create", 0] == 1


async def test_a_hanging_response_ends_with_the_clients_timeout() -> None:
    """The prediction is created all the same."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("hang")

        fixture.http.timeout = httpx.Timeout(0.3)
        with pytest.raises(httpx.ReadTimeout):
            await fixture.create()

        assert len(fixture.fake.ledger.entries) == 1


@pytest.mark.parametrize(
    ("kind", "code", "created"),
    [("500_before", 500, 0), ("500_after", 500, 1), ("429", 429, 0), ("wrong_json", 200, 1)],
)
async def test_create_can_get_a_wrong_response(kind: str, code: int, created: int) -> None:
    """For as many requests as the fault has `times`."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault(kind, times=2)
        answers = [await fixture.create() for _ in range(3)]

        assert [answer.status_code for answer in answers] == [code, code, 201]
        assert len(fixture.fake.ledger.entries) == 2 * created + 1
        assert fixture.fake.struck[kind] == 2
        if kind == "429":
            assert answers[0].json()["retry_after"] == 10
        if kind == "wrong_json":
            with pytest.raises(json.JSONDecodeError):
                answers[0].json()


async def test_a_fault_affects_only_its_place() -> None:
    """The place "any" is every place."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("500_before", place="get")
        prediction_id = (await fixture.create()).json()["id"]
        assert (await fixture.http.get(f"predictions/{prediction_id}")).status_code == 500
        assert (await fixture.http.get(f"predictions/{prediction_id}")).status_code == 200
        fixture.fake.fault("429", value=3, times=2, place="any")
        answers = [await fixture.http.get("account"), await fixture.http.get("predictions")]
        assert [answer.json()["retry_after"] for answer in answers] == [3, 3]


async def test_a_response_can_be_slow() -> None:
    """It is complete."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("slow", value=0.3, place="account")
        started = asyncio.get_running_loop().time()
        answer = await fixture.http.get("account")

        assert answer.json()["type"] == "user"
        assert asyncio.get_running_loop().time() - started >= 0.3


async def test_a_download_can_be_truncated_or_not_found() -> None:
    """Once; the next download succeeds."""
    async with emulator_fixture() as fixture:
        url = (await fixture.made())["output"]
        fixture.fake.fault("truncated", place="delivery")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await fixture.http.get(url)
        fixture.fake.fault("404", place="delivery")

        assert (await fixture.http.get(url)).status_code == 404
        assert (await fixture.http.get(url)).status_code == 200


async def test_an_output_can_be_expired_from_the_start() -> None:
    """The prediction succeeds, and its URL is always 404."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("dead_output")
        prediction = await fixture.made()

        assert prediction["status"] == "succeeded"
        assert [(await fixture.http.get(prediction["output"])).status_code for _ in (1, 2)] == [
            404,
            404,
        ]
        assert (await fixture.http.get((await fixture.made(seed=9))["output"])).status_code == 200


async def test_the_emulator_can_be_down_for_a_period() -> None:
    """No response, then 503, then normal responses."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock) as fixture:
        fixture.fake.fault("down", value=600)
        with pytest.raises(httpx.RemoteProtocolError):
            await fixture.create()
        clock.jump(599)
        with pytest.raises(httpx.RemoteProtocolError):
            await fixture.http.get("account")
        clock.jump(2)
        fixture.fake.fault("unavailable", value=10)
        unavailable = await fixture.create()
        clock.jump(11)

        assert unavailable.status_code == 503
        assert (await fixture.create()).status_code == 201
        assert len(fixture.fake.ledger.entries) == 1


@pytest.mark.parametrize(
    ("status", "charged", "error"),
    [
        ("failed", 1, "Prediction interrupted; please retry (code: PA)"),
        ("canceled", 1, None),
        ("aborted", 0, None),
    ],
)
async def test_a_prediction_can_end_with_every_status(
    status: str, charged: int, error: str | None
) -> None:
    """The next one succeeds."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("status", value=status)
        body, after = await fixture.made(), await fixture.made(seed=9)

        assert (body["status"], body["output"], body["error"]) == (status, None, error)
        assert after["status"] == "succeeded"
        assert len(fixture.fake.ledger.charged) == charged + 1


async def test_a_prediction_can_fail_with_any_error() -> None:
    """The error is that of the fault."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("fail_with", value="E6716: timeout starting prediction")

        body = await fixture.made()

        assert (body["status"], body["error"]) == ("failed", "E6716: timeout starting prediction")


async def test_a_prediction_can_be_stuck_slow_or_cold() -> None:
    """A stuck prediction runs until it is canceled; the others end."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, work_s=1) as fixture:
        fixture.fake.fault("stuck")
        fixture.fake.fault("slow_work", value=50)
        stuck = (await fixture.create()).json()["id"]
        fixture.fake.fault("cold_start", value=20)
        fixture.fake.fault("slow_work", value=50)
        slow = (await fixture.create(seed=9)).json()["id"]
        clock.jump(70)
        assert (await fixture.get(slow))["status"] == "processing"
        clock.jump(2)
        assert (await fixture.get(slow))["metrics"] == {"predict_time": 51.0, "total_time": 71.0}
        clock.jump(100_000)
        assert (await fixture.get(stuck))["status"] == "processing"
        assert (await fixture.http.post(f"predictions/{stuck}/cancel")).json()[
            "status"
        ] == "canceled"


@pytest.mark.parametrize("shape", ["string", "list", "data_url", "null"])
async def test_the_output_can_have_every_form(shape: str) -> None:
    """As recorded from the API."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("output_shape", value=shape)
        body = await fixture.made()

        output = body["output"]
        assert body["status"] == "succeeded"
        if shape == "null":
            assert output is None
        elif shape == "list":
            assert [url.rsplit("/", 1)[1] for url in output] == ["out.mp3"]
        elif shape == "data_url":
            assert base64.b64decode(output.removeprefix("data:audio/mpeg;base64,"))[:3] == b"ID3"
        else:
            assert output.endswith("/out.mp3")


async def test_the_data_of_a_prediction_can_be_removed_at_once() -> None:
    """It succeeds without data."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("purged")
        body = await fixture.made()

        assert (body["status"], body["data_removed"]) == ("succeeded", True)
        assert (body["input"], body["output"], body["logs"]) == ({}, None, "")


def _is_signed(fixture: EmulatorFixture, headers: dict[str, str], body: bytes) -> bool:
    """Return whether a webhook has a valid signature by the specification."""
    key = base64.b64decode(fixture.fake.webhook_secret[len("whsec_") :])
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    right = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return f"v1,{right}" in headers["webhook-signature"].split(" ")


async def _webhooks_of(
    fixture: EmulatorFixture, receiver: Webhook, **keys: Any
) -> list[dict[str, Any]]:
    """Return the bodies that a receiver got for one prediction."""
    await fixture.create(keys={"webhook": receiver.url, **keys})
    await fixture.fake.settled()
    return [json.loads(body) for _, body in receiver.got]


async def test_webhooks_are_signed_and_hold_the_prediction() -> None:
    """The events of the filter, or all without one."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        bodies = await _webhooks_of(fixture, receiver, webhook_events_filter=["completed"])
        assert [body["status"] for body in bodies] == ["succeeded"]
        assert bodies[0]["output"].endswith("/out.mp3")
        assert all(_is_signed(fixture, *got) for got in receiver.got)
        receiver.got.clear()
        statuses = sorted(body["status"] for body in await _webhooks_of(fixture, receiver))
        assert statuses == ["processing", "processing", "processing", "succeeded"]


async def test_completed_is_sent_again_until_it_is_accepted() -> None:
    """With the same id and a new timestamp, for one minute; other events are sent once."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock) as fixture, a_webhook() as receiver:
        receiver.answers = [500, 503, 404]
        await fixture.create(keys={"webhook": receiver.url, "webhook_events_filter": ["completed"]})
        for count, delay_s in enumerate(fixture.fake.settings.webhook_delays_s[:3], start=1):
            await _until(lambda: len(receiver.got) == count)  # noqa: B023 - used at once
            clock.jump(delay_s)
        await fixture.fake.settled()

        assert len(receiver.got) == 4
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 4
        assert all(_is_signed(fixture, *got) for got in receiver.got)
        assert sum(fixture.fake.settings.webhook_delays_s) == pytest.approx(60)


async def _until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - the test moves the clock and sets no event
            await asyncio.sleep(0.01)


async def test_a_webhook_can_be_lost() -> None:
    """It is never sent; the prediction can be read."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_lost")

        assert await _webhooks_of(fixture, receiver, webhook_events_filter=["completed"]) == []
        assert fixture.fake.predictions[0]["status"] == "succeeded"


async def test_a_webhook_can_be_sent_twice() -> None:
    """With one id, both validly signed."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_doubled")
        bodies = await _webhooks_of(fixture, receiver, webhook_events_filter=["completed"])

        assert bodies[0] == bodies[1]
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        assert [_is_signed(fixture, *got) for got in receiver.got] == [True, True]


async def test_a_forged_webhook_can_be_sent() -> None:
    """A badly signed `failed` webhook precedes the real one."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_forged")
        bodies = await _webhooks_of(fixture, receiver, webhook_events_filter=["completed"])

        assert [body["status"] for body in bodies] == ["failed", "succeeded"]
        assert [_is_signed(fixture, *got) for got in receiver.got] == [False, True]


async def test_a_webhook_can_be_late_or_stale() -> None:
    """Late: sent later with a current timestamp. Stale: sent at once with an old timestamp."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock) as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_late", value=400)
        await fixture.create(keys={"webhook": receiver.url, "webhook_events_filter": ["completed"]})
        await _until(lambda: fixture.fake.running == 0)
        assert receiver.got == []
        clock.jump(401)
        await fixture.fake.settled()
        fixture.fake.fault("webhook_stale", value=600)
        await _webhooks_of(fixture, receiver, webhook_events_filter=["completed"])

        stamps = [int(headers["webhook-timestamp"]) for headers, _ in receiver.got]
        started = int(FakeClock().now().timestamp())
        assert [stamp - started for stamp in stamps] == [401, 401 - 600]
        assert all(_is_signed(fixture, *got) for got in receiver.got)


async def test_http_webhooks_are_rejected_if_disabled() -> None:
    """The real API requires https."""
    async with emulator_fixture(webhooks_over_http=False) as fixture:
        refused = await fixture.create(keys={"webhook": "http://127.0.0.1:9/hook"})

        assert refused.status_code == 422
        assert refused.json()["invalid_fields"][0]["field"] == "webhook"


async def test_faults_and_settings_are_controlled_over_http() -> None:
    """Pending faults can be listed and removed; invalid ones are rejected."""
    async with emulator_fixture() as fixture:
        control = fixture.fake.base_url.removesuffix("/v1") + "/_fake"
        script = [{"kind": "500_before", "times": 3}, {"kind": "status", "value": "aborted"}]
        put = await fixture.http.post(f"{control}/faults", json=script)
        struck = await fixture.create()
        pending = (await fixture.http.get(f"{control}/faults")).json()["pending"]
        await fixture.http.delete(f"{control}/faults")
        slips = [{"kind": "lost"}, {"kind": "down"}, {"kind": "clip_shape", "value": "odd"}]
        refused = [await fixture.http.post(f"{control}/faults", json=slip) for slip in slips]

        assert (put.status_code, struck.status_code) == (200, 500)
        assert [(fault["kind"], fault["times"]) for fault in pending] == [
            ("500_before", 2),
            ("status", 1),
        ]
        assert (await fixture.create()).status_code == 201
        assert [answer.status_code for answer in refused] == [422, 422, 422]
        await fixture.http.patch(f"{control}/settings", json={"creations_per_min": 6})
        await fixture.http.post(f"{control}/account", json={"is_revoked": True, "credit_usd": 1.5})
        state = (await fixture.http.get(f"{control}/state")).json()
        assert fixture.fake.settings.creations_per_min == 6
        assert (state["is_revoked"], state["credit_usd"]) == (True, 1.5)
        assert state["requests"]["create 500"] == 1
