"""Tests of the Replicate emulator's API: responses, errors, lists, limits and time."""

import asyncio
import os
import re
import signal
import sys
from typing import Any

import httpx
import pytest

from replicate_server import ReplicateEmulator
from shared.storage import StandInWarning
from tests.fakes.clock import FakeClock
from tests.support.replicate_emulator import FRESH, VERSION, emulator_fixture

pytestmark = pytest.mark.integration
FIELDS = {
    *("id", "model", "version", "input", "output", "logs", "error", "status", "created_at"),
    *("started_at", "completed_at", "data_removed", "source", "deployment", "metrics", "urls"),
}


async def test_create_returns_every_field() -> None:
    """201, `starting`, the input as sent, and the URLs of the prediction."""
    async with emulator_fixture(queue_s=60) as fixture:
        answer = await fixture.create()

        body = answer.json()
        assert answer.status_code == 201
        assert set(body) == FIELDS
        assert re.fullmatch(r"[a-z2-7]{26}", body["id"])
        assert (body["model"], body["version"]) == ("meta/musicgen", VERSION.split(":")[1])
        assert (body["status"], body["input"], body["output"]) == ("starting", FRESH, None)
        assert (body["error"], body["logs"], body["metrics"]) == (None, "", {})
        url = f"{fixture.fake.base_url}/predictions/{body['id']}"
        assert (body["urls"]["get"], body["urls"]["cancel"]) == (url, f"{url}/cancel")
        assert {"web", "stream"} < set(body["urls"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", body["created_at"])


async def test_a_prediction_takes_the_configured_time() -> None:
    """2 s queue and 5 s cold start, then 4 s plus 0.5 s per second of music."""
    clock = FakeClock()
    async with emulator_fixture(
        clock=clock, queue_s=2, cold_start_s=5, work_s=4, work_s_per_s=0.5
    ) as fixture:
        prediction_id = (await fixture.create()).json()["id"]
        statuses = []
        for jump_s in (6.9, 0.2, 5.3, 0.2):
            clock.jump(jump_s)
            statuses.append((await fixture.get(prediction_id))["status"])
        body = await fixture.get(prediction_id)

        assert statuses == ["starting", "processing", "processing", "succeeded"]
        assert body["metrics"] == {"predict_time": 5.5, "total_time": 12.5}
        assert "Loading model stereo-large" in body["logs"]
        assert "Using seed 7\n" in body["logs"]
        assert body["output"].startswith(fixture.fake.base_url.removesuffix("/v1") + "/delivery/")
        assert body["output"].endswith("/out.mp3")
        assert body["completed_at"] == "2026-01-01T00:00:12.500000Z"


async def test_only_a_cold_model_has_a_cold_start() -> None:
    """The model is cold after `idle_s` without a prediction."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, cold_start_s=30, idle_s=100) as fixture:
        statuses = []
        for idle_s in (0, 99, 101):
            clock.jump(idle_s)
            prediction_id = (await fixture.create()).json()["id"]
            statuses.append((await fixture.get(prediction_id))["status"])
            if statuses[-1] == "starting":
                clock.jump(30)
                await fixture.get(prediction_id)

        assert statuses == ["starting", "succeeded", "starting"]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic x", "Bearer"])
async def test_a_request_without_the_token_is_rejected(header: str | None) -> None:
    """401 with the API's own text."""
    async with emulator_fixture() as fixture:
        headers = {"Authorization": header} if header else {}
        answer = await fixture.http.send(
            httpx.Request("GET", f"{fixture.fake.base_url}/account", headers=headers)
        )

        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "title": "Unauthenticated",
            "detail": "You did not pass a valid authentication token",
            "status": 401,
        }


async def test_a_revoked_token_is_rejected_until_it_is_restored() -> None:
    """Existing predictions are kept."""
    async with emulator_fixture() as fixture:
        prediction = await fixture.made()
        fixture.fake.revoke()
        refused = await fixture.create()
        fixture.fake.restore()

        assert refused.status_code == 401
        assert (await fixture.get(prediction["id"]))["status"] == "succeeded"
        assert len(fixture.fake.ledger.entries) == 1


@pytest.mark.parametrize(
    ("change", "field", "kind", "description"),
    [
        ({"duration": 4.0}, "duration", "invalid_type", "Expected: integer, given: number"),
        ({"seed": "7"}, "seed", "invalid_type", "Expected: integer, given: string"),
        ({"seed": None}, "seed", "invalid_type", "Expected: integer, given: null"),
        ({"continuation": 1}, "continuation", "invalid_type", "Expected: boolean, given: integer"),
        ({"duration": True}, "duration", "invalid_type", "Expected: integer, given: boolean"),
        ({"continuation_end": -1}, "continuation_end", "number_gte", "greater than or equal to 0"),
        ({"output_format": "ogg"}, "output_format", "enum", 'of the following: "wav", "mp3"'),
        ({"input_audio": "UklGRg=="}, "input_audio", "format", "Does not match format 'uri'"),
    ],
)
async def test_an_invalid_input_is_rejected_with_its_field(
    change: dict[str, Any], field: str, kind: str, description: str
) -> None:
    """422 with the field, the type and the API's own text; no prediction is created."""
    async with emulator_fixture() as fixture:
        answer = await fixture.create(**change)

        body = answer.json()
        assert answer.status_code == body["status"] == 422
        assert body["title"] == "Input validation failed"
        (invalid,) = body["invalid_fields"]
        assert (invalid["type"], invalid["field"]) == (kind, f"input.{field}")
        assert description in invalid["description"]
        assert body["detail"] == f"- input.{field}: {invalid['description']}\n"
        assert fixture.fake.ledger.entries == []


async def test_missing_and_additional_keys_are_rejected() -> None:
    """They are named at the root, as recorded."""
    async with emulator_fixture() as fixture:
        answer = await fixture.http.post("predictions", json={"input": {}, "metadata": {"job": 1}})

        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "- version is required\n- Additional property metadata is not allowed\n"
        )
        assert [invalid["type"] for invalid in answer.json()["invalid_fields"]] == [
            "required",
            "additional_property_not_allowed",
        ]


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"'])
async def test_a_body_that_is_not_an_object_is_rejected(body: bytes) -> None:
    """The emulator continues to serve."""
    async with emulator_fixture() as fixture:
        answer = await fixture.http.post("predictions", content=body)

        assert answer.status_code in {400, 422}
        assert (await fixture.create()).status_code == 201


async def test_only_the_pinned_version_is_permitted() -> None:
    """With or without the model's name."""
    async with emulator_fixture() as fixture:
        versions = [VERSION, VERSION.split(":")[1], "meta/musicgen", "0" * 64]
        answers = [await fixture.create(keys={"version": version}) for version in versions]

        assert [answer.status_code for answer in answers] == [201, 201, 422, 422]
        assert answers[3].json()["title"] == "Invalid version or not permitted"


async def test_a_body_that_is_too_large_is_rejected() -> None:
    """It is not read to its end."""
    async with emulator_fixture(body_bytes_max=1000) as fixture:
        assert (await fixture.create(prompt="x" * 2000)).status_code == 413


async def test_unknown_predictions_and_outputs_are_not_found() -> None:
    """404 for both."""
    async with emulator_fixture() as fixture:
        assert (await fixture.http.get("predictions/unknown")).status_code == 404
        assert (await fixture.http.post("predictions/unknown/cancel")).status_code == 404
        origin = fixture.fake.base_url.removesuffix("/v1")
        assert (await fixture.http.get(f"{origin}/delivery/nothing/out.mp3")).status_code == 404


async def test_secret_and_account_are_returned() -> None:
    """The secret has the form that signs webhooks."""
    async with emulator_fixture() as fixture:
        secret = (await fixture.http.get("webhooks/default/secret")).json()

        assert secret == {"key": fixture.fake.webhook_secret}
        assert secret["key"].startswith("whsec_")
        assert (await fixture.http.get("account")).json()["type"] == "user"


async def test_the_list_is_paged_newest_first() -> None:
    """Pages of three with cursors in both directions; nothing is repeated or missing."""
    async with emulator_fixture(page_size=3, queue_s=60) as fixture:
        ids = [(await fixture.create(seed=seed)).json()["id"] for seed in range(1, 8)]
        pages, url = [], "predictions"
        while url:
            pages.append((await fixture.http.get(url)).json())
            url = pages[-1]["next"]
        back = (await fixture.http.get(pages[2]["previous"])).json()

        assert [item["id"] for page in pages for item in page["results"]] == ids[::-1]
        assert [len(page["results"]) for page in pages] == [3, 3, 1]
        assert pages[0]["previous"] is None
        assert back["results"] == pages[1]["results"]
        assert pages[0]["results"][0]["input"]["seed"] == 7


async def test_the_list_is_filtered_by_time() -> None:
    """From `created_after`, before `created_before`."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, queue_s=6000) as fixture:
        for seed in (1, 2, 3):
            await fixture.create(seed=seed)
            clock.jump(60)
        parameters = {
            "created_after": "2026-01-01T00:01:00Z",
            "created_before": "2026-01-01T00:02:00Z",
        }
        body = (await fixture.http.get("predictions", params=parameters)).json()

        assert [item["input"]["seed"] for item in body["results"]] == [2]
        invalid = await fixture.http.get("predictions", params={"created_after": "yesterday"})
        assert invalid.status_code == 400


async def test_a_canceled_prediction_is_charged_for_its_time() -> None:
    """A prediction that had not started costs nothing."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, queue_s=10, work_s=100) as fixture:
        early, late = [(await fixture.create(seed=seed)).json()["id"] for seed in (1, 2)]
        body = (await fixture.http.post(f"predictions/{early}/cancel")).json()
        clock.jump(30)
        await fixture.http.post(f"predictions/{late}/cancel")
        again = (await fixture.http.post(f"predictions/{late}/cancel")).json()

        assert (body["status"], body["started_at"]) == ("canceled", None)
        assert (again["status"], again["metrics"]["predict_time"]) == ("canceled", 20.0)
        (charged,) = fixture.fake.ledger.charged
        assert charged.id == late
        assert charged.cost_usd == pytest.approx(20 * 0.0014)


@pytest.mark.parametrize(
    ("header", "queue_s", "status", "total_s"),
    [("30", 60, "aborted", 30), ("1m5s", 10, "canceled", 65), ("1h", 10, "succeeded", 210)],
)
async def test_cancel_after_ends_a_prediction(
    header: str, queue_s: float, status: str, total_s: float
) -> None:
    """Before the start it is `aborted` and free; later `canceled` and charged."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, queue_s=queue_s, work_s=200) as fixture:
        prediction = (await fixture.create({"Cancel-After": header})).json()
        clock.jump(400)
        body = await fixture.get(prediction["id"])

        assert (body["status"], body["metrics"]["total_time"]) == (status, total_s)
        assert body["deadline"] == prediction["deadline"]
        assert len(fixture.fake.ledger.charged) == (status != "aborted")


@pytest.mark.parametrize("header", ["4", "soon", "0s", ""])
async def test_an_invalid_or_short_cancel_after_is_rejected(header: str) -> None:
    """The minimum is 5 s."""
    async with emulator_fixture() as fixture:
        assert (await fixture.create({"Cancel-After": header})).status_code == 422


async def test_outputs_expire_and_data_is_removed() -> None:
    """After one hour the URL is 404, and input, output and logs are removed."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock) as fixture:
        prediction = await fixture.made()
        before = await fixture.http.get(prediction["output"])
        clock.jump(3601)
        after = await fixture.http.get(prediction["output"])
        body = await fixture.get(prediction["id"])

        assert (before.status_code, before.headers["content-type"]) == (200, "audio/mpeg")
        assert after.status_code == 404
        assert (body["status"], body["data_removed"]) == ("succeeded", True)
        assert (body["input"], body["output"], body["logs"]) == ({}, None, "")


async def test_creations_are_throttled() -> None:
    """6 a minute, one at once; the header is present only if it is enabled."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, creations_per_min=6, creation_burst=1) as fixture:
        first, second = await fixture.create(), await fixture.create()
        clock.jump(10)
        third = await fixture.create()
        fixture.fake.tune(retry_after_header=True)
        fourth = await fixture.create()

        assert [a.status_code for a in (first, second, third, fourth)] == [201, 429, 201, 429]
        assert second.json() == {
            "detail": "Request was throttled. Your rate limit resets in ~10s.",
            "status": 429,
            "retry_after": 10,
        }
        assert "retry-after" not in second.headers
        assert fourth.headers["retry-after"] == "10"
        assert len(fixture.fake.ledger.entries) == 2


async def test_responses_have_rate_limit_headers() -> None:
    """600 creations and 3000 other requests a minute."""
    async with emulator_fixture() as fixture:
        created = await fixture.create()
        account = await fixture.http.get("account")

        assert created.headers["ratelimit-remaining"] == "599"
        assert created.headers["ratelimit-reset"] == "1"
        assert account.headers["ratelimit-remaining"] == "2999"


async def test_without_credit_create_is_rejected() -> None:
    """402 until the account has credit again."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, work_s=10, credit_usd=0.01) as fixture:
        prediction_id = (await fixture.create()).json()["id"]
        clock.jump(10)
        await fixture.get(prediction_id)
        refused = await fixture.create()
        fixture.fake.credit_usd = 5.0

        assert (refused.status_code, refused.json()["title"]) == (402, "Insufficient credit")
        assert (await fixture.create()).status_code == 201


async def test_prefer_wait_responds_as_recorded() -> None:
    """`processing` although it has ended, with the output as a data URL."""
    async with emulator_fixture() as fixture:
        answer = await fixture.create({"Prefer": "wait=5"})

        assert (answer.status_code, answer.json()["status"]) == (201, "processing")
        assert answer.json()["output"].startswith("data:audio/mpeg;base64,")
        assert answer.headers["preference-applied"] == "wait=5"
        assert (await fixture.get(answer.json()["id"]))["status"] == "succeeded"


async def test_the_oldest_ended_predictions_are_removed_first() -> None:
    """The ledger keeps them."""
    async with emulator_fixture(predictions_max=2) as fixture:
        first = await fixture.made(seed=1)
        for seed in (2, 3):
            await fixture.made(seed=seed)

        assert (await fixture.http.get(f"predictions/{first['id']}")).status_code == 404
        assert [entry.seed for entry in fixture.fake.ledger.entries] == [1, 2, 3]


async def test_the_emulator_identifies_itself() -> None:
    """A warning when it is built, and a header on every response."""
    with pytest.warns(StandInWarning, match="fake Replicate"):
        ReplicateEmulator()
    async with emulator_fixture() as fixture:
        origin = fixture.fake.base_url.removesuffix("/v1")
        answers = [await fixture.create(), await fixture.http.get("predictions/unknown")]
        answers.append(await fixture.http.get(f"{origin}/nowhere"))

        assert [answer.headers["x-fake-replicate"] for answer in answers] == ["1"] * 3


async def test_the_ledger_is_available_over_http() -> None:
    """Client, seed, prompt, duration and cost."""
    clock = FakeClock()
    async with emulator_fixture(clock=clock, work_s=10) as fixture:
        prediction_id = (await fixture.create({"User-Agent": "generator-1"}, seed=0)).json()["id"]
        clock.jump(10)
        body = await fixture.get(prediction_id)
        origin = fixture.fake.base_url.removesuffix("/v1")
        ledger = (await fixture.http.get(f"{origin}/_fake/ledger")).json()

        (entry,) = ledger["entries"]
        assert (ledger["created"], ledger["charged"]) == (1, 1)
        assert (entry["id"], entry["client"]) == (prediction_id, "generator-1")
        assert f"Using seed {entry['seed']}\n" in body["logs"]
        assert 0 < entry["seed"] < 2**32
        assert (entry["predict_s"], entry["cost_usd"]) == (10.0, pytest.approx(0.014))


async def test_the_command_prints_url_and_token() -> None:
    """It exits with 0 on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "replicate_server", "--work-s", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            lines = [(await process.stdout.readline()).decode() for _ in range(3)]
        variables = dict(line.strip().split("=", 1) for line in lines[1:])
        headers = {"Authorization": f"Bearer {variables['REPLICATE_API_KEY']}"}
        async with httpx.AsyncClient(headers=headers) as http:
            answer = await http.get(f"{variables['REPLICATE_BASE_URL']}/account")
        assert answer.status_code == 200
        os.kill(process.pid, signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
