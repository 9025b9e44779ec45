"""Each fault of the fake Replicate does what its table says, as often as it says."""

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
async def test_a_create_can_stay_unanswered(kind: str, created: int) -> None:
    """Made or not made, the caller cannot tell; the ledger can."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault(kind, value=0.1 if kind == "hang" else None)

        with pytest.raises(httpx.RemoteProtocolError):
            await fixture.create()

        assert len(fixture.fake.ledger.entries) == created
        assert (await fixture.create()).status_code == 201
        assert fixture.fake.requests["create", 0] == 1


async def test_a_hanging_answer_ends_with_the_callers_patience() -> None:
    """The prediction is made all the same."""
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
async def test_a_create_can_be_answered_wrongly(kind: str, code: int, created: int) -> None:
    """So many times as the script says, then no more."""
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


async def test_a_fault_strikes_at_its_place_alone() -> None:
    """A poll that fails is not a create that fails; "any" is every place."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("500_before", place="get")
        made = (await fixture.create()).json()["id"]
        assert (await fixture.http.get(f"predictions/{made}")).status_code == 500
        assert (await fixture.http.get(f"predictions/{made}")).status_code == 200
        fixture.fake.fault("429", value=3, times=2, place="any")
        answers = [await fixture.http.get("account"), await fixture.http.get("predictions")]
        assert [answer.json()["retry_after"] for answer in answers] == [3, 3]


async def test_an_answer_can_be_slow() -> None:
    """It comes, and is whole."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("slow", value=0.3, place="account")
        begun = asyncio.get_running_loop().time()
        answer = await fixture.http.get("account")

        assert answer.json()["type"] == "user"
        assert asyncio.get_running_loop().time() - begun >= 0.3


async def test_a_download_can_break_off_or_find_nothing() -> None:
    """Once; the output is there the next time."""
    async with emulator_fixture() as fixture:
        url = (await fixture.made())["output"]
        fixture.fake.fault("truncated", place="delivery")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            await fixture.http.get(url)
        fixture.fake.fault("404", place="delivery")

        assert (await fixture.http.get(url)).status_code == 404
        assert (await fixture.http.get(url)).status_code == 200


async def test_an_output_can_be_dead_from_the_start() -> None:
    """The prediction succeeded, its URL answers 404 for good."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("dead_output")
        made = await fixture.made()

        assert made["status"] == "succeeded"
        assert [(await fixture.http.get(made["output"])).status_code for _ in (1, 2)] == [404, 404]
        assert (await fixture.http.get((await fixture.made(seed=9))["output"])).status_code == 200


async def test_the_service_can_be_down_for_a_while() -> None:
    """No answer at all, then 503, then everything as before."""
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
async def test_a_prediction_can_end_in_every_way(
    status: str, charged: int, error: str | None
) -> None:
    """The next one succeeds."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("status", value=status)
        told, after = await fixture.made(), await fixture.made(seed=9)

        assert (told["status"], told["output"], told["error"]) == (status, None, error)
        assert after["status"] == "succeeded"
        assert len(fixture.fake.ledger.charged) == charged + 1


async def test_a_prediction_can_fail_with_any_words() -> None:
    """As they stand in the script."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("fail_with", value="E6716: timeout starting prediction")

        told = await fixture.made()

        assert (told["status"], told["error"]) == ("failed", "E6716: timeout starting prediction")


async def test_a_prediction_can_last_for_ever_or_longer() -> None:
    """Stuck is stuck until somebody cancels; slow and cold come to their end."""
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
async def test_the_output_is_written_in_every_shape(shape: str) -> None:
    """As the API was seen to write it."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("output_shape", value=shape)
        told = await fixture.made()

        output = told["output"]
        assert told["status"] == "succeeded"
        if shape == "null":
            assert output is None
        elif shape == "list":
            assert [url.rsplit("/", 1)[1] for url in output] == ["out.mp3"]
        elif shape == "data_url":
            assert base64.b64decode(output.removeprefix("data:audio/mpeg;base64,"))[:3] == b"ID3"
        else:
            assert output.endswith("/out.mp3")


async def test_a_prediction_can_be_purged_at_once() -> None:
    """It succeeded, and there is nothing left of it."""
    async with emulator_fixture() as fixture:
        fixture.fake.fault("purged")
        told = await fixture.made()

        assert (told["status"], told["data_removed"]) == ("succeeded", True)
        assert (told["input"], told["output"], told["logs"]) == ({}, None, "")


def _is_signed(fixture: EmulatorFixture, headers: dict[str, str], body: bytes) -> bool:
    """Whether a webhook's signature is right, computed by the specification."""
    key = base64.b64decode(fixture.fake.webhook_secret[len("whsec_") :])
    signed = b".".join(
        [headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body]
    )
    right = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return f"v1,{right}" in headers["webhook-signature"].split(" ")


async def _told(fixture: EmulatorFixture, receiver: Webhook, **keys: Any) -> list[dict[str, Any]]:
    """What a webhook was told of one prediction, from its start to its end."""
    await fixture.create(keys={"webhook": receiver.url, **keys})
    await fixture.fake.settled()
    return [json.loads(body) for _, body in receiver.got]


async def test_webhooks_are_signed_and_tell_the_prediction() -> None:
    """Those that the filter names; without one, all of them."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        told = await _told(fixture, receiver, webhook_events_filter=["completed"])
        assert [one["status"] for one in told] == ["succeeded"]
        assert told[0]["output"].endswith("/out.mp3")
        assert all(_is_signed(fixture, *got) for got in receiver.got)
        receiver.got.clear()
        statuses = sorted(one["status"] for one in await _told(fixture, receiver))
        assert statuses == ["processing", "processing", "processing", "succeeded"]


async def test_completed_is_sent_again_until_it_is_taken() -> None:
    """Under the same id, each time freshly stamped, for about a minute; others only once."""
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
        while not holds():  # noqa: ASYNC110 - the fake's clock wakes nobody
            await asyncio.sleep(0.01)


async def test_a_webhook_can_be_lost() -> None:
    """It is never sent; the prediction is there for whoever asks."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_lost")

        assert await _told(fixture, receiver, webhook_events_filter=["completed"]) == []
        assert fixture.fake.predictions[0]["status"] == "succeeded"


async def test_a_webhook_can_come_twice() -> None:
    """Under one id, both of them good."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_doubled")
        told = await _told(fixture, receiver, webhook_events_filter=["completed"])

        assert told[0] == told[1]
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
        assert [_is_signed(fixture, *got) for got in receiver.got] == [True, True]


async def test_a_webhook_can_be_forged() -> None:
    """One with a bad signature says that it failed; the true one follows."""
    async with emulator_fixture() as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_forged")
        told = await _told(fixture, receiver, webhook_events_filter=["completed"])

        assert [one["status"] for one in told] == ["failed", "succeeded"]
        assert [_is_signed(fixture, *got) for got in receiver.got] == [False, True]


async def test_a_webhook_can_be_late_or_stale() -> None:
    """Late: sent then, stamped then. Stale: sent now, stamped long ago."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock) as fixture, a_webhook() as receiver:
        fixture.fake.fault("webhook_late", value=400)
        await fixture.create(keys={"webhook": receiver.url, "webhook_events_filter": ["completed"]})
        await _until(lambda: fixture.fake.running == 0)
        assert receiver.got == []
        clock.jump(401)
        await fixture.fake.settled()
        fixture.fake.fault("webhook_stale", value=600)
        await _told(fixture, receiver, webhook_events_filter=["completed"])

        stamps = [int(headers["webhook-timestamp"]) for headers, _ in receiver.got]
        begun = int(FakeClock().now().timestamp())
        assert [stamp - begun for stamp in stamps] == [401, 401 - 600]
        assert all(_is_signed(fixture, *got) for got in receiver.got)


async def test_webhooks_over_plain_http_are_refused_where_they_are_switched_off() -> None:
    """The real API takes https alone."""
    async with emulator_fixture(webhooks_over_http=False) as fixture:
        refused = await fixture.create(keys={"webhook": "http://127.0.0.1:9/hook"})

        assert refused.status_code == 422
        assert refused.json()["invalid_fields"][0]["field"] == "webhook"


async def test_faults_and_settings_are_ruled_over_http() -> None:
    """What waits can be seen and forgotten; a slip of the pen is refused."""
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
        assert [(one["kind"], one["times"]) for one in pending] == [
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
